from __future__ import annotations

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.nvidia.library import Board
from pytest_llem.meters.nvidia.visibility import select_by_uuid, select_visible

A = Board(uuid="GPU-aaaa1111-0000", index=0, name="H100")
B = Board(uuid="GPU-aaaa2222-0000", index=1, name="H100")
C = Board(uuid="GPU-cccc3333-0000", index=2, name="H100")
ALIKE = [A, B, C]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        ("-1", []),
        ("1", [B]),
        ("2,0", [C, A]),
        (" 1 , 2 ", [B, C]),
        # CUDA stops at the first entry that names no board.
        ("0,7,1", [A]),
        ("1,-1,0", [B]),
        ("1,nonsense", [B]),
        # Like strtoul, what follows the digits is ignored.
        ("1x", [B]),
        # An entry given twice hides every board.
        ("1,1", []),
        ("GPU-cccc3333-0000", [C]),
        ("GPU-CCCC", [C]),
        ("GPU-aaaa2,GPU-aaaa1", [B, A]),
        # A prefix that fits two boards names none.
        ("GPU-aaaa", []),
        ("GPU-aaaa1,1", [A]),
        ("GPU-aaaa1,GPU-aaaa1111", []),
    ],
)
def test_cuda_visible_devices(value: str | None, expected: list[Board]) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert list(select_visible(ALIKE, environ).boards) == expected


def test_mig_slice_is_refused_with_the_reason() -> None:
    with pytest.raises(MeterUnavailableError, match="no energy counter of its own"):
        select_visible(ALIKE, {"CUDA_VISIBLE_DEVICES": "MIG-1234"})


class TestOrderOfIndices:
    UNLIKE = (A, Board(uuid="GPU-dddd", index=1, name="GT 1030"))

    def test_unlike_boards_by_index_are_named_uncertain(self) -> None:
        (warning,) = select_visible(self.UNLIKE, {"CUDA_VISIBLE_DEVICES": "1"}).warnings
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in warning
        assert "GPU-dddd" in warning

    @pytest.mark.parametrize(
        "environ",
        [
            {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            {"CUDA_VISIBLE_DEVICES": "GPU-dddd"},
            {"CUDA_VISIBLE_DEVICES": "1,0"},
            {},
        ],
    )
    def test_nothing_is_said_where_the_choice_is_certain(self, environ: dict[str, str]) -> None:
        assert select_visible(self.UNLIKE, environ).warnings == ()

    def test_alike_boards_keep_pci_order(self) -> None:
        assert select_visible(ALIKE, {"CUDA_VISIBLE_DEVICES": "1"}).warnings == ()


class TestByUuid:
    @pytest.mark.parametrize("spelling", ["GPU-cccc3333-0000", "cccc3333-0000", b"GPU-CCCC3333-0000"])
    def test_every_spelling_of_a_uuid(self, spelling: str | bytes) -> None:
        assert select_by_uuid(ALIKE, [spelling]).boards == (C,)

    def test_a_board_asked_for_twice_counts_once(self) -> None:
        assert select_by_uuid(ALIKE, [C.uuid, A.uuid, C.uuid]).boards == (C, A)

    def test_a_prefix_is_not_enough(self) -> None:
        with pytest.raises(MeterUnavailableError, match=r"does not show GPU-cccc.*GPU-aaaa1111-0000 \(H100\)"):
            select_by_uuid(ALIKE, ["GPU-cccc"])

    def test_a_slice_is_refused(self) -> None:
        with pytest.raises(MeterUnavailableError, match="MIG slice"):
            select_by_uuid(ALIKE, ["MIG-1234"])
