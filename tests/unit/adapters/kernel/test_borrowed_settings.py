"""Settings of interfaces that are not ours: turned on while they are needed, and put back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway_agent.adapters.kernel.borrowed_settings import NAME, RECORD, BorrowedSettings


class Machine:
    """A run directory and interfaces, each with the setting."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.run_dir, self.sysctls = directory / "run", directory / "conf"
        self.run_dir.mkdir()
        for interface, value in settings.items():
            (self.sysctls / interface).mkdir(parents=True)
            (self.sysctls / interface / NAME).write_text(f"{value}\n")

    def borrowed(self) -> BorrowedSettings:
        """Return what a new process finds."""
        return BorrowedSettings(self.run_dir, self.sysctls)

    def value(self, interface: str) -> str:
        return (self.sysctls / interface / NAME).read_text().strip()


def test_it_is_on_while_it_is_wanted_and_off_afterwards(tmp_path: Path) -> None:
    machine = Machine(tmp_path, eth0="0", eth1="0")
    settings = machine.borrowed()
    assert settings.follow({"eth1"})
    assert not settings.follow({"eth1"})
    assert (machine.value("eth0"), machine.value("eth1")) == ("0", "1")
    assert machine.borrowed().follow(())
    assert machine.value("eth1") == "0"
    assert not (machine.run_dir / RECORD).exists()


def test_what_was_on_before_stays_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path, eth1="1")
    assert not machine.borrowed().follow({"eth1"})
    machine.borrowed().follow(())
    assert machine.value("eth1") == "1"


def test_a_process_that_ends_right_after_the_record_leaves_a_setting_that_can_be_put_back(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, eth1="0")
    machine.borrowed().follow({"eth1"})
    # As if it had not come to the setting itself.
    (machine.sysctls / "eth1" / NAME).write_text("0\n")
    assert machine.borrowed().follow({"eth1"})
    machine.borrowed().follow(())
    assert machine.value("eth1") == "0"


def test_a_setting_that_cannot_be_written_is_no_change(tmp_path: Path) -> None:
    """Each change asks for another round of the agent: without end, if a refusal were one."""
    machine = Machine(tmp_path, eth1="0")
    setting = machine.sysctls / "eth1" / NAME
    setting.unlink()
    # Reads as 0, and the kernel refuses to write it.
    setting.symlink_to("/sys/class/net/lo/addr_assign_type")
    assert machine.value("eth1") == "0"
    assert not machine.borrowed().follow({"eth1"})


@pytest.mark.parametrize("content", ["", "{", "{}", "[1, null]", "\0"])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    machine = Machine(tmp_path, eth1="1")
    (machine.run_dir / RECORD).write_text(content)
    assert not machine.borrowed().follow(())
    assert machine.value("eth1") == "1"
