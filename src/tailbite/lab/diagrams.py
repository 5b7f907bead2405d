"""Sequence diagrams of captured segments: as text for a terminal, and as Mermaid for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.lab.handshake import Scene, SegmentStep

__all__ = ["describe_remains", "explain_segment", "mermaid_diagrams", "text_diagram"]

_STATE = 14
_ACROSS = 43


def explain_segment(step: SegmentStep) -> str | None:
    """Return an explanation of an unusual segment, None for others."""
    if step.duplicate is None:
        return None
    return f"with D-SACK {step.duplicate[0]}-{step.duplicate[1]}: that SYN had already arrived"


def describe_remains(scene: Scene) -> str:
    """Return one line about the socket that the kernel keeps after the connection."""
    if scene.left is None:
        return f"after {scene.ending.value}: nothing is left, the port is free"
    if scene.is_folded:
        both = f"{scene.port} <-> {scene.port}"
        return f"after {scene.ending.value}: {scene.left} on {both}, no server can bind the port"
    return f"after {scene.ending.value}: {scene.left} on the client's port, not on the server's"


def text_diagram(scene: Scene) -> str:
    """Return one scene in at most 80 columns, with segments written as in RFC 9293."""
    lines = [f"{scene.name}, port {scene.port}", ""]
    if scene.is_folded:
        lines.append(f"    {'CLOSED':<{_STATE}}  one socket, both ends")
        for step in scene.steps:
            out = f"--> {step.segment} ".ljust(_ACROSS, "-")
            lines.append(f"    {step.before:<{_STATE}}{out}-.")
            lines.append(f"    {step.after:<{_STATE}}<{'-' * _ACROSS}'")
            if (explanation := explain_segment(step)) is not None:
                lines.append(f"    {'':<{_STATE}}    {explanation}")
    else:
        lines.append(f"    {'CLOSED':<{_STATE}}{'client':<22}{'server':>{_ACROSS - 22}}  LISTEN")
        for step in scene.steps:
            near, far = (step.before, step.after) if step.sender == 0 else (step.after, step.before)
            arrow = "-->" if step.sender == 0 else "<--"
            lines.append(f"    {near:<{_STATE}}{arrow} {step.segment:<{_ACROSS - 8}} {arrow}  {far}")
    return "\n".join([*lines, "", f"    {describe_remains(scene)}"])


def mermaid_diagrams(scenes: Sequence[Scene]) -> str:
    """Return the scenes as Mermaid sequence diagrams, each in a Markdown block."""
    return "\n\n".join(_mermaid(scene) for scene in scenes)


def _mermaid(scene: Scene) -> str:
    lines = ["```mermaid", "sequenceDiagram", f"    title {scene.name}, port {scene.port}"]
    names = ["S"] if scene.is_folded else ["C", "S"]
    labels = ["one socket"] if scene.is_folded else ["client", "server"]
    lines += [f"    participant {name} as {label}" for name, label in zip(names, labels, strict=True)]
    for step in scene.steps:
        sender = names[step.sender]
        receiver = names[0] if scene.is_folded else names[1 - step.sender]
        # Mermaid takes < and > for HTML and ; for the end of a line.
        text = step.segment.replace("><", " ").strip("<>")
        lines.append(f"    {sender}->>{receiver}: {text}")
        lines.append(f"    Note over {receiver}: {step.after}")
        if (explanation := explain_segment(step)) is not None:
            lines.append(f"    Note over {sender}: {explanation}")
    return "\n".join(
        [*lines, f"    Note over {','.join(names)}: {describe_remains(scene).replace('<->', 'to')}", "```"]
    )
