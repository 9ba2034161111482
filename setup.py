"""What pyproject.toml cannot say of a wheel: it carries the configurations, the revision and the compiled kernels.

The kernels call torch through its stable ABI and Python not at all, so that one wheel serves every Python and every
torch from 2.11 on. They are compiled where MULTIMAX_WHEEL_KERNELS is set, which `make wheel` does: that needs a
compiler and torch at build time. A wheel without them, as pip builds it from the sources, compiles them on first use.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
WITH_KERNELS = bool(os.environ.get("MULTIMAX_WHEEL_KERNELS"))


class Package(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "multimax"
        shutil.copytree(ROOT / "configs", package / "suite" / "configs", dirs_exist_ok=True)
        if WITH_KERNELS:
            sys.path.insert(0, str(ROOT))
            from multimax.kernels.cpu import build
            from multimax.suite.engine import provenance

            if known := provenance.revision():  # not of sources that came without their repository
                (package / provenance.REVISION).write_text(f"{known}\n")
            build.compile_for_wheel(package / "kernels" / "cpu" / build.SHIPPED.name)


class Wheel(bdist_wheel):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not WITH_KERNELS

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2] if WITH_KERNELS else "any")


setup(cmdclass={"build_py": Package, "bdist_wheel": Wheel})
