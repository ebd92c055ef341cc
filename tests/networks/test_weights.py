from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from busi_monai.errors import WeightsError
from busi_monai.networks.weights import load_weights, read_weights, save_tensors


def network(width: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))


def test_half_precision_storage_becomes_float32(tmp_path):
    saved, loaded = network(), network()
    torch.save({k: v.half() for k, v in saved.state_dict().items()}, tmp_path / "model.pt")
    load_weights(loaded, tmp_path / "model.pt")
    assert loaded[0].weight.dtype == torch.float32
    torch.testing.assert_close(loaded[0].weight, saved[0].weight.half().float())


class BrokenOff(io.FileIO):
    """A file whose given write is the one that an event falls into."""

    def __init__(self, path, event, write):
        super().__init__(path, "wb")
        self.event, self.left = event, write

    def write(self, content):
        self.left -= 1
        if self.left == 0:
            raise self.event
        return super().write(content)


@pytest.mark.parametrize("event", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("write", range(1, 12))
def test_what_breaks_a_write_off_comes_out_as_itself(tmp_path, monkeypatch, event, write):
    stream = BrokenOff(tmp_path / "model.pt", event, write)
    monkeypatch.setattr(Path, "open", lambda path, mode: stream)
    with pytest.raises(type(event)):
        save_tensors(network().state_dict(), tmp_path / "model.pt")


def test_equal_tensors_give_equal_files(tmp_path):
    state = network().state_dict()
    for name in ("one.pt", "another name.pt"):
        save_tensors(state, tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()
    torch.testing.assert_close(read_weights(tmp_path / "one.pt"), dict(state))


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.pt does not exist.*busi-monai train"):
        load_weights(network(), tmp_path / "model.pt")


def test_another_architecture_is_refused_with_the_differing_shapes(tmp_path):
    torch.save(network(5).state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        WeightsError, match=r"0\.weight has shape \(5, 3\), expected \(2, 3\).*1\.weight"
    ):
        load_weights(network(2), tmp_path / "model.pt")


def test_missing_and_unknown_keys_are_listed_and_counted(tmp_path):
    torch.save({f"other{i}": torch.zeros(1) for i in range(9)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"0\.weight is missing.*and 8 more"):
        load_weights(network(), tmp_path / "model.pt")


def test_a_pickled_network_is_refused_without_running_it(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="refused"):
        read_weights(tmp_path / "model.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.pt"):
        read_weights(tmp_path / "model.pt")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {"epoch": 3}])
def test_anything_but_a_flat_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="flat state dict"):
        read_weights(tmp_path / "model.pt")
