"""How the command imports torch: in two thirds of the time."""

import gc
import sys
from types import ModuleType

LATER = "torch._meta_registrations"  # what results would look like, without computing them: for compilers of models


def import_torch() -> ModuleType:
    """torch, without that module; whoever imports it afterwards gets it."""
    if "torch" not in sys.modules:
        sys.modules[LATER] = ModuleType(LATER)
        gc.disable()  # it would look through all that is made in vain, again and again
        try:
            import torch

            vars(torch).pop(LATER.removeprefix("torch."), None)
        finally:
            del sys.modules[LATER]
            gc.freeze()
            gc.enable()
    return sys.modules["torch"]
