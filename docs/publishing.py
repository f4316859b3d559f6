"""Put a built site beside those of other versions: ``publishing.py BUILT SITES VERSION``.

SITES is the folder that is published, with a folder for each version: ``dev`` for the branch main,
``0.1.0`` and so on for releases, and ``stable``, a copy of the newest of them. The list from which
the pages offer the other versions is made of the folders, and the front page leads on to `stable`,
or to `dev` as long as nothing was released. Older versions stay as they are.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil

SITE = "https://fastlstm.github.io/fastlstm"


def number(version: str) -> tuple[int, ...] | None:
    """Return the numbers of a release; None for ``dev``, candidates and whatever else there is."""
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+\.\d+\.\d+", version) else None


def releases(sites: pathlib.Path) -> list[str]:
    """Return the releases that have a folder, the newest first."""
    names = [path.name for path in sites.iterdir() if path.is_dir() and number(path.name)]
    return sorted(names, key=number, reverse=True)


def switcher(sites: pathlib.Path) -> list[dict[str, object]]:
    """Return the list of versions as the theme reads it."""
    listed: list[dict[str, object]] = []
    for name in releases(sites):
        if listed:
            listed.append({"name": name, "version": name, "url": f"{SITE}/{name}/"})
        else:  # the newest is where links to the documentation lead
            url = f"{SITE}/stable/"
            listed.append(
                {"name": f"{name} (stable)", "version": name, "url": url, "preferred": True}
            )
    if (sites / "dev").is_dir():
        listed.insert(0, {"name": "dev", "version": "dev", "url": f"{SITE}/dev/"})
    return listed


def publish(built: pathlib.Path, sites: pathlib.Path, version: str) -> None:
    """Put a built site into the folder of its version, and renew what all versions share."""
    if not re.fullmatch(r"dev|\d+\.\d+\.\d+\w*", version):
        raise ValueError(f"a version is dev or has three numbers, as 0.1.0, got {version!r}")
    if not (built / "index.html").is_file():
        raise FileNotFoundError(f"{built} has no index.html: it is no built site")
    sites.mkdir(exist_ok=True)
    renew(built, sites / version)
    if releases(sites)[:1] == [version]:
        renew(built, sites / "stable")
    (sites / "switcher.json").write_text(json.dumps(switcher(sites), indent=1) + "\n")
    first = "stable" if (sites / "stable").is_dir() else "dev"
    (sites / "index.html").write_text(
        '<!DOCTYPE html>\n<meta charset="utf-8">\n<title>fastlstm</title>\n'
        f'<meta http-equiv="refresh" content="0; url={first}/">\n'
        f'<link rel="canonical" href="{SITE}/{first}/">\n<a href="{first}/">fastlstm</a>\n'
    )
    (sites / ".nojekyll").touch()  # or GitHub leaves out what begins with _


def renew(built: pathlib.Path, folder: pathlib.Path) -> None:
    """Replace a folder by a copy of the built site."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, folder, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python docs/publishing.py", description=__doc__)
    parser.add_argument("built", type=pathlib.Path)
    parser.add_argument("sites", type=pathlib.Path)
    parser.add_argument("version")
    arguments = parser.parse_args()
    publish(arguments.built, arguments.sites, arguments.version)
