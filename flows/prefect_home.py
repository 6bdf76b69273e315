"""Where Prefect lives on this machine, and which API the user chose for it.

Prefect itself is not imported: it would delay the start of the local server by its 1.5 s.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from storage.errors import ServerError


def configured_api_url() -> str | None:
    """Return the API that the user chose for Prefect, or None: then softlabel starts a server.

    Looks where Prefect looks, in its order: the environment, `.env`, `prefect.toml` and
    `pyproject.toml` of the working folder, the active profile. Prefect itself is not imported,
    which would delay the start of the server by its 1.5 s.
    """
    here = Path()
    candidates = (
        os.environ.get("PREFECT_API_URL"),
        _dotenv_api_url(here / ".env"),
        _read_toml(here / "prefect.toml").get("api", {}).get("url"),
        _read_toml(here / "pyproject.toml")
        .get("tool", {})
        .get("prefect", {})
        .get("api", {})
        .get("url"),
        _profile_api_url(),
    )
    return next((str(url) for url in candidates if url), None)


def prefect_home() -> Path:
    """Return the folder of Prefect's settings and database."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()


def _profile_api_url() -> str | None:
    path = os.environ.get("PREFECT_PROFILES_PATH") or prefect_home() / "profiles.toml"
    content = _read_toml(Path(path).expanduser())
    active = os.environ.get("PREFECT_PROFILE") or content.get("active")
    url: str | None = content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return url


def _dotenv_api_url(path: Path) -> str | None:
    if not path.is_file():
        return None
    from dotenv import dotenv_values

    return dotenv_values(path).get("PREFECT_API_URL")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise ServerError(
            f"expected TOML with Prefect's settings in {path}, but it does not read: {e}; "
            "mend or remove the file"
        ) from e
