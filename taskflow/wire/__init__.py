"""The recorded form of everything: values, exceptions and pauses as bytes, calls as ids.

In reading order:

    differences     whether two values are the same, and where they differ
    models          annotations in which types of pydantic stand: read and written by pydantic
    json            JSON text: the one module that uses `msgspec.json`
    advice          what to do about a value that would not come back
    plain           values that JSON carries without an annotation
    unknown         fields of a record that today's classes do not know
    forms           how the values of one annotation are written and read: by which library
    codec           `Codec`: values of one annotation to bytes and back, or a clear error
    classes         recorded names of classes to classes, and to instances
    attributes      values of exceptions that JSON does not carry by itself
    validations     pydantic's ValidationError, which is made of other things than arguments
    failures        exceptions to bytes and back, and the mark that ties one to its call
    pauses          the recorded form of a paused run
    types           the types inside a value that its JSON does not show
    identity        arguments, keys and ids: what makes two calls the same call
    digests         a compact set of digests

Only this wing decides what is recorded for a value, only `identity` decides what a task id is, and
only `classes` which class a recorded name means.
It may import `loops` and the top-level modules.
"""
