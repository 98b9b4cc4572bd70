"""Field types of a device profile, and messages about wrong fields.

Each message has the given value, what is wanted, and an example; no regular expression is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic.fields import FieldInfo

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")
_CONSOLE = re.compile(r"[A-Za-z]{1,12}[0-9]{1,3}")
_OPTIONS = re.compile(r"([0-9]{1,7})(?:([noe])(?:([78])(r)?)?)?", re.IGNORECASE)
_SLOWEST, _FASTEST = 50, 4_000_000
"""Limits of a serial line's speed, bit/s."""
_PCI = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_PCI_DEVICES = 32  # on a bus


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name; want lower-case letters, digits and single hyphens, such as edge-200"
        )
    return value


def _module(value: str) -> str:
    if not _MODULE.fullmatch(value):
        raise ValueError(f"{value!r} is not a kernel module; want its name as lsmod(8) shows it, such as virtio_net")
    return value


def console(value: str) -> str:
    """A console as the kernel's ``console=`` takes it: ``device[,BBBBPNF]``, the options in lower case.

    BBBB is the speed in bit/s, P the parity (n, o, e), N the number of bits (7, 8), F flow control (r: RTS/CTS); all
    but the speed may be left out, from the right (kernel: Documentation/admin-guide/serial-console.rst).

    Raises:
        ValueError: a part is malformed; the message names it, and what is wanted.
    """
    device, comma, options = value.partition(",")
    if not _CONSOLE.fullmatch(device):
        raise ValueError(
            f"{device!r} is not a console; want a device name below /dev with a number, such as ttyS0, ttyAMA0, hvc0"
        )
    if not comma:
        return device
    parts = _OPTIONS.fullmatch(options)
    if parts is None:
        raise ValueError(
            f"{options!r} after {device}: want the speed in bit/s, then the parity (n, o or e), the "
            "number of bits (7 or 8) and r for flow control by RTS/CTS, such as 115200, 115200n8 or 9600e7r"
        )
    if not _SLOWEST <= int(parts[1]) <= _FASTEST:
        raise ValueError(
            f"{parts[1]} is not a speed of a serial line; want {_SLOWEST} to {_FASTEST} bit/s, such as 115200"
        )
    return f"{device},{options.lower()}"


def port_match(value: str) -> str:
    """``first``, or ``pci:`` and an address, written as the kernel writes it (``%04x:%02x:%02x.%x``).

    The domain may be left out for 0, as lspci(8) does; behind Intel's VMD it has five digits.

    Raises:
        ValueError: it is neither; the message says what is wanted.
    """
    if value == "first":
        return value
    kind, _, address = value.partition(":")
    parts = _PCI.fullmatch(address)
    wanted = "want first, or pci: and the address that `lspci -D` shows, such as pci:0000:02:00.1"
    if kind != "pci" or parts is None:
        raise ValueError(f"{value!r} is not a port; {wanted}")
    domain, bus, device, function = int(parts[1] or "0", 16), int(parts[2], 16), int(parts[3], 16), parts[4]
    if device >= _PCI_DEVICES:
        raise ValueError(f"{value!r} is not a port: a bus has devices 00 to {_PCI_DEVICES - 1:02x}; {wanted}")
    return f"pci:{domain:04x}:{bus:02x}:{device:02x}.{function}"


Name = Annotated[str, AfterValidator(_name)]
Module = Annotated[str, AfterValidator(_module)]
Console = Annotated[str, AfterValidator(console)]
PortMatch = Annotated[str, AfterValidator(port_match)]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for each wrong field: its path, its value, and what is wanted."""
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])) or 'profile'}: {_say(found, model)}" for found in error.errors()
    )


def _say(found: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, given, context = found["type"], found["input"], found.get("ctx", {})
    match kind:
        case "missing":
            return f"is missing{_for_example(found['loc'], model)}"
        case "extra_forbidden":
            return f"there is no such field; there are: {', '.join(_siblings(found['loc'], model))}"
        case "greater_than_equal" | "less_than_equal":
            return f"{given!r} is out of range; want {_range(found['loc'], model, context)}"
        case "literal_error":
            return f"{given!r} is none of the choices; want {context['expected']}"
        case "int_type" | "int_from_float":
            return f"{given!r} is not a whole number{_for_example(found['loc'], model)}"
        case "string_type":
            return f"{given!r} is not text; write it in quotation marks"
        case "tuple_type":
            return f"{given!r} is not a list; write it in brackets, such as [{given!r}]"
        case "too_short" | "too_long":
            bound = f"{context['min_length']} or more" if kind == "too_short" else f"at most {context['max_length']}"
            return f"has {context['actual_length']} entries; want {bound}"
        case "value_error":
            return str(context["error"])
        case _:
            return str(found["msg"])


def _walk(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model that a path of a field leads to, and the field there (None: the model has no such field)."""
    field: FieldInfo | None = None
    for part in loc:
        if isinstance(part, int):
            break  # an entry of a list: its field is the list's
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
        field = model.model_fields.get(part)
    return model, field


def _siblings(loc: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    return list(_walk(loc, model)[0].model_fields)


def _bounds(field: FieldInfo | None) -> tuple[Any, Any]:
    found = {type(bound): bound for bound in (field.metadata if field else ())}
    least, most = found.get(Ge), found.get(Le)
    return least.ge if isinstance(least, Ge) else None, most.le if isinstance(most, Le) else None


def _range(loc: tuple[int | str, ...], model: type[BaseModel], context: Mapping[str, Any]) -> str:
    least, most = _bounds(_walk(loc, model)[1])
    if least is not None and most is not None:
        return f"{least} to {most}"
    return f"{context['ge']} or more" if "ge" in context else f"at most {context['le']}"


def _for_example(loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    least, most = _bounds(_walk(loc, model)[1])
    return "" if least is None or most is None else f"; want {least} to {most}"
