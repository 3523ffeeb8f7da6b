from adapter_service.errors import InvalidParameterError


def parse_tool_calls(text):
    raise InvalidParameterError("x")
