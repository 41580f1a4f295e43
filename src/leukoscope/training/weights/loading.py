"""Load initial weights of the backbone: from timm's hub, from a local safetensors file, or none."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from leukoscope.core.errors import WeightsError
from leukoscope.core.io import file_sha256
from leukoscope.core.places import expand_user
from leukoscope.training.networks.network import CellNetwork

NAMES_SHOWN = 5


class Pin(NamedTuple):
    """A file on the hub that is known to the byte."""

    revision: str
    sha256: str


PINS: dict[str, Pin] = {
    "timm/efficientnet_b3.ra2_in1k": Pin(
        revision="707c9b711f7f114b4c1601d566a4aaf9fdba4a49",
        sha256="279d2a53898aa89dab43fd6bd7df9f706aea4cb9cf916223988bbcb8e5850469",
    ),
}
"""Hub repository -> revision and SHA-256 of its ``model.safetensors``.

Both are those that the hub shows of the file (huggingface.co/timm/efficientnet_b3.ra2_in1k/blob/main/model.safetensors
and the list of commits). A repository without a pin is taken at the revision ``main``; the run's provenance keeps the
commit and the digest of the download, from which a pin is made.
"""


class Origin(NamedTuple):
    """The loaded weights, for the provenance of the run."""

    source: str
    sha256: str | None
    revision: str | None = None
    note: str | None = None
    """Origin of the weights, from the metadata ``origin`` of the file."""


def load_weights(network: CellNetwork, weights: str) -> Origin:
    """Fill the backbone.

    Parameters
    ----------
    network
        Its backbone is changed in place; the head keeps its random start.
    weights
        ``imagenet``, ``none`` or the path of a safetensors file with timm's names.

    Raises
    ------
    WeightsError
        No such file, no network, another digest than the pinned one, or tensors that do not fit (each kind is named).
    """
    if weights == "none":
        return Origin("none", None)
    if weights == "imagenet":
        path, source, revision = _fetch(network)
        pin = PINS.get(source)
        digest = file_sha256(path)
        if pin is not None and digest != pin.sha256:
            raise WeightsError(
                f"{source}: SHA-256 is {digest}, pinned is {pin.sha256}; clear the hub's cache and try again"
            )
        _fill(network.backbone.model, read_tensors(path), source, extra_allowed=_classifier_names(network))
        return Origin(source, digest, revision)
    path = expand_user(weights)
    tensors = read_tensors(path)
    _fill(network.backbone.model, tensors, str(path), extra_allowed=())
    with safe_open(path, framework="pt") as file:
        note = (file.metadata() or {}).get("origin")
    return Origin(path.name, file_sha256(path), note=note)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file as float32 (whole-number tensors keep their type).

    Raises
    ------
    WeightsError
        No such file, or not a safetensors file.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; give a .safetensors file, 'imagenet' or 'none'")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}); pickled files are not read") from None
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def check_tensors(expected: dict[str, Tensor], tensors: dict[str, Tensor], source: str) -> None:
    """Raise a ``WeightsError`` that names tensors that are missing, surplus, of another shape or not finite."""
    troubles = []
    if missing := sorted(expected.keys() - tensors.keys()):
        troubles.append(f"{len(missing)} missing: {_some(missing)}")
    if surplus := sorted(tensors.keys() - expected.keys()):
        troubles.append(f"{len(surplus)} surplus: {_some(surplus)}")
    common = sorted(expected.keys() & tensors.keys())
    reshaped = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in common
        if tensors[name].shape != expected[name].shape
    ]
    if reshaped:
        troubles.append(f"{len(reshaped)} of another shape: {_some(reshaped)}")
    if broken := [name for name in common if not bool(torch.isfinite(tensors[name]).all())]:
        troubles.append(f"{len(broken)} with values that are not finite: {_some(broken)}")
    if troubles:
        raise WeightsError(f"{source}: the tensors do not fit the network; {'; '.join(troubles)}")


def _fill(model: nn.Module, tensors: dict[str, Tensor], source: str, extra_allowed: tuple[str, ...]) -> None:
    state = model.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name not in extra_allowed}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):  # a counter that published files often leave out
            tensors.setdefault(name, tensor)
    check_tensors(state, tensors, source)
    model.load_state_dict(tensors, strict=True)


def _classifier_names(network: CellNetwork) -> tuple[str, ...]:
    configuration = getattr(network.backbone.model, "pretrained_cfg", {})
    classifier = configuration.get("classifier") or "classifier"
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


def _fetch(network: CellNetwork) -> tuple[Path, str, str | None]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    configuration = getattr(network.backbone.model, "pretrained_cfg", {})
    repository = configuration.get("hf_hub_id")
    if not repository:
        raise WeightsError(
            f"timm has no ImageNet weights of {network.settings.arch} on its hub; give a safetensors file or 'none'"
        )
    pin = PINS.get(repository)
    try:
        path = Path(hf_hub_download(repository, "model.safetensors", revision=pin.revision if pin else None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"the ImageNet weights {repository} cannot be fetched ({reason}); connect to the network once, or fetch "
            "model.safetensors elsewhere and name it: --set network.weights=model.safetensors"
        ) from None
    # The hub's cache keeps files under snapshots/<commit>/.
    revision = path.parent.name if path.parent.parent.name == "snapshots" else None
    return path, repository, revision


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
