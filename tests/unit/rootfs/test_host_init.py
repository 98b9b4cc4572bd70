"""The first program of the host, run in parts: what it takes from the command line, and which partition it takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from rootfs.base.version import PROJECT
from rootfs.spec import blocks, profile
from rootfs.tree import overlay

HASH, SALT = "ab" * 32, "cd" * 32
GOOD = f"quiet sallyport.roothash={HASH} sallyport.verity=7,{SALT}"
STOP = 'fail() { echo "$1"; exit 1; }\n'


def part(first: str, last: str) -> str:
    """From the line ``first`` to one that begins with ``last``."""
    values = {"profile": profile.load("qemu"), "blocks": blocks}
    text = overlay.render(PROJECT / "overlays/host_initramfs/init.j2", values)
    found = re.search(rf"^{re.escape(first)}.*?^{re.escape(last)}", text, re.MULTILINE | re.DOTALL)
    assert found is not None, first
    return found[0]


def shell(script: str) -> tuple[int, str]:
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip() + done.stderr.strip()


def command_line(words: str) -> tuple[int, str]:
    assert "'" not in words
    show = 'echo "$roothash $blocks $salt"'
    return shell(f"{STOP}cat() {{ echo '{words}'; }}\n{part('roothash=', '# The disk is')}\n{show}")


def test_root_hash_and_verity_are_read() -> None:
    assert command_line(GOOD) == (0, f"{HASH} 7 {SALT}")
    # Words of which they are but a part are other words.
    others = f"xsallyport.roothash=00 sallyport.roothash.x=00 sallyport.verity2=1,00 *=* {GOOD} a.sallyport.verity=1,00"
    assert command_line(others) == (0, f"{HASH} 7 {SALT}")


@pytest.mark.parametrize("word", ["sallyport.roothash=" + "00" * 32, f"sallyport.verity=1,{SALT}"])
@pytest.mark.parametrize("form", ["{0} {1}", "{1} {0}", "{0}\n{1}", "{0} -- {1}"])
def test_what_is_said_twice_is_refused(word: str, form: str) -> None:
    name = word.split("=")[0]
    assert command_line(form.format(GOOD, word)) == (1, f"the kernel's command line has {name}= more than once")


@pytest.mark.parametrize(
    "words",
    [
        "quiet",
        GOOD.replace(HASH, ""),
        GOOD.replace(HASH, "xyz"),
        GOOD.replace("7,", ","),
        GOOD.replace("7,", "0x7,"),
        GOOD.replace(SALT, ""),
        GOOD.replace(SALT, "$(reboot)"),
        f"sallyport.roothash={HASH}",
        f"sallyport.verity=7,{SALT}",
    ],
)
def test_what_is_missing_or_no_number_is_refused(words: str) -> None:
    assert command_line(words) == (
        1,
        "the kernel's command line has no whole sallyport.roothash= and sallyport.verity=",
    )


def devices(folder: Path, **names: str) -> None:
    for device, name in names.items():
        (folder / device).mkdir(parents=True)
        (folder / device / "uevent").write_text(f"MAJOR=8\nDEVNAME={device}\nDEVTYPE=partition\nPARTNAME={name}\n")


def slot(folder: Path) -> tuple[int, str]:
    script = part("only_slot() {", "}").replace("/sys/class/block", str(folder))
    return shell(f'{STOP}{script}\nonly_slot\necho "$slot"')


def test_the_one_slot_is_found_by_its_whole_name(tmp_path: Path) -> None:
    assert slot(tmp_path) == (0, "")
    devices(tmp_path, vda1="esp", vda2="slot-a", vda3="slot-b", vdb1="xslot-a", vdc1="slot-a2")
    assert slot(tmp_path) == (0, "vda2")


def test_a_second_slot_is_refused_with_the_names_of_both(tmp_path: Path) -> None:
    devices(tmp_path, sda2="slot-a", sda4="data", sdb2="slot-a")
    status, said = slot(tmp_path)
    assert (status, "sda2 and sdb2" in said) == (1, True)


def storage(data: str = "vda4", **answers: bool) -> tuple[str, str]:
    """What the appliance comes up with, and what it did, one letter each.

    Args:
        data: the data partition, if there is one.
        answers: what goes well: ``write`` (the disk is not protected), ``p``, ``y``, ``b``, ``n`` (e2fsck), ``rw``
            (it is mounted so, not read-only), ``ro``, ``cp``.
    """
    good = {"write": True, "p": True, "y": True, "b": True, "n": True, "rw": True, "ro": True, "cp": True} | answers
    answer = "".join(f"{name}={0 if value else 1}\n" for name, value in good.items())
    stubs = """
    done=
    note() { done="$done $1"; return $2; }
    say() { :; }
    check() {
        case "$*" in
        "-f -p") note p $p ;;
        "-f -y") note y $y ;;
        "-f -y -b "*) note b $b ;;
        "-f -n") note n $n ;;
        *) exit 9 ;;
        esac
    }
    memory() { note memory 0; }
    mount() { case "$*" in *bind*) ;; *" -o ro,"*) note ro $ro ;; *errors=remount-ro*) note rw 0 ;; *) exit 9 ;; esac; }
    umount() { case $1 in /sysroot/data) note umount 0 ;; esac; }
    cp() { note cp $cp; }
    cat() { echo $write; }
    grep() { return $((1 - rw)); }
    """
    script = part("mount -o bind /dev /sysroot/dev", "umount /sysroot/dev")
    status, said = shell(f'{answer}{stubs}data={data}\nslot=vda2\n{script}\necho "$state:$done"')
    assert status == 0, said
    state, _, did = said.partition(": ")
    return state, did


@pytest.mark.parametrize(
    ("answers", "state", "did"),
    [
        ({}, "ok", "p rw"),
        ({"p": False}, "repaired", "p y rw"),
        ({"p": False, "y": False}, "repaired", "p y b rw"),
        # Beyond repair: the kernel never sees it.
        ({"p": False, "y": False, "b": False, "n": False}, "temporary", "p y b memory n"),
        ({"data": ""}, "temporary", "memory"),
        # It can be read but not written.
        ({"write": False}, "copy", "memory n ro cp"),
        ({"rw": False}, "copy", "p rw umount memory n ro cp"),
        ({"p": False, "rw": False}, "copy", "p y rw umount memory n ro cp"),
        ({"write": False, "n": False}, "temporary", "memory n"),
        ({"write": False, "ro": False}, "temporary", "memory n ro"),
        # Half a copy is none.
        ({"write": False, "cp": False}, "temporary", "memory n ro cp umount memory"),
    ],
)
def test_whatever_the_data_partition_is_the_appliance_comes_up(answers: dict[str, bool], state: str, did: str) -> None:
    assert storage(**answers) == (state, did)  # type: ignore[arg-type]
