"""Tools to test workflows, and stores, as hard as taskflow tests itself."""
