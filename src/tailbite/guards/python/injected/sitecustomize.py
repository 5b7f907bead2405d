# Switch on tailbite.guard() in this Python, and be out of the way. Any Python may read this file, so it is written
# for all of them; guards/python/inherit.py explains the rest.
#
# Loading the guard takes longer than starting Python, and most programs never connect. So only a small audit hook is
# installed here, which loads it at the first bind or connect.
#
# mypy: ignore-errors
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.normpath(os.path.join(_HERE, *[os.pardir] * 4))  # the directory that holds the package
_hook = None
_has_warned = False


def _warn(why):
    global _has_warned
    if not _has_warned:
        _has_warned = True
        try:
            sys.stderr.write("tailbite: this Python (%s) is not guarded: %s\n" % (sys.executable, why))
        except Exception:
            pass  # the program has closed its stderr, or replaced it


def _load():
    # The program's own tailbite comes first; ours is at the end of the path, and only for this moment.
    sys.path.append(_ROOT)
    try:
        from tailbite.guards.python.guard import hook_for_good

        return hook_for_good()
    except Exception as error:
        _warn(error)
        return None  # no descriptor may be left now, and one later
    finally:
        sys.path.remove(_ROOT)


def _on_event(event, args):
    global _hook
    if event == "socket.connect" or event == "socket.bind":
        if _hook is None:
            _hook = _load()
        if _hook is not None:
            _hook(event, args)


def _step_aside():
    # The program finds its path as it would be without us. Its environment keeps us, for the Pythons it starts.
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != _HERE]
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401 - the one that would have been found
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


if sys.version_info < (3, 11):
    _warn("Python 3.11 or newer is needed")
else:
    sys.addaudithook(_on_event)
_step_aside()
