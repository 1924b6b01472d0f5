"""The messages of the Open Inference Protocol's gRPC service, as classes.

Made from the table below when this is imported, in a pool of their own, so that a client's generated classes of the
same names may live in the same process.
Border: the one file that imports google.protobuf (the extra `grpc`); what the messages mean is oip_calls.py's.
Limits: of a tensor's typed contents only bytes are known, since no model has any other; the rest is skipped unread.
Source: the fields and their numbers as KServe and Triton publish them, grpc_service.proto of the package `inference`.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from millis.errors import InvalidRequest

_PACKAGE = "inference"

_FIELDS: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live = 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready = 1",),
    "ModelReadyRequest": ("string name = 1", "string version = 2"),
    "ModelReadyResponse": ("bool ready = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name = 1", "string version = 2", "repeated string extensions = 3"),
    "ModelMetadataRequest": ("string name = 1", "string version = 2"),
    "TensorMetadata": ("string name = 1", "string datatype = 2", "repeated int64 shape = 3"),
    "ModelMetadataResponse": (
        "string name = 1", "repeated string versions = 2", "string platform = 3", "repeated TensorMetadata inputs = 4",
        "repeated TensorMetadata outputs = 5",
    ),
    "InferParameter": (
        "oneof bool bool_param = 1", "oneof int64 int64_param = 2", "oneof string string_param = 3",
        "oneof double double_param = 4", "oneof uint64 uint64_param = 5",
    ),
    "ParametersEntry": ("string key = 1", "InferParameter value = 2"),
    "InferTensorContents": ("repeated bytes bytes_contents = 8",),
    "InferTensor": (
        "string name = 1", "string datatype = 2", "repeated int64 shape = 3", "repeated ParametersEntry parameters = 4",
        "InferTensorContents contents = 5",
    ),
    "InferRequestedOutputTensor": ("string name = 1", "repeated ParametersEntry parameters = 2"),
    "ModelInferRequest": (
        "string model_name = 1", "string model_version = 2", "string id = 3",
        "repeated ParametersEntry parameters = 4", "repeated InferTensor inputs = 5",
        "repeated InferRequestedOutputTensor outputs = 6", "repeated bytes raw_input_contents = 7",
    ),
    "ModelInferResponse": (
        "string model_name = 1", "string model_version = 2", "string id = 3",
        "repeated ParametersEntry parameters = 4", "repeated InferTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
}  # fmt: skip
"""By message its fields, as a .proto file has them; a map is the repeated entry that it is on the wire."""


def _make_classes() -> dict[str, Any]:
    of_field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="millis/inference.proto", package=_PACKAGE, syntax="proto3")
    for name, lines in _FIELDS.items():
        message = file.message_type.add(name=name)
        for line in lines:
            *label, type_, field_name, _, number = line.split()
            field = message.field.add(name=field_name, number=int(number), label=of_field.LABEL_OPTIONAL)
            if label == ["repeated"]:
                field.label = of_field.LABEL_REPEATED
            elif label == ["oneof"]:
                if not message.oneof_decl:
                    message.oneof_decl.add(name="choice")
                field.oneof_index = 0
            if type_ in _FIELDS:
                field.type, field.type_name = of_field.TYPE_MESSAGE, f".{_PACKAGE}.{type_}"
            else:
                field.type = of_field.Type.Value(f"TYPE_{type_.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _FIELDS
    }


messages = _make_classes()
"""By name, without its package."""


def read_message(name: str, data: bytes) -> Any:
    """Read a message.

    Raises:
        InvalidRequest: the bytes are no such message.
    """
    try:
        return messages[name].FromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            f"the message is no {_PACKAGE}.{name}: send one of the Open Inference Protocol's grpc_service.proto.",
            slug="not-protobuf",
        ) from error
