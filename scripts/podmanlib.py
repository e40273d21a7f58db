"""podman with storage, networks and configuration of its own, for scripts/try-kubernetes; and a base image without a registry."""

import json
import os
import shutil
import subprocess

import deploylib
import yaml

NETWORK = "zeroth-try"
BASE_IMAGE = "localhost/zeroth-base:1"


def run(*command, check=True, **more):
    """A command's standard output; what it said where it failed."""
    ended = subprocess.run([str(word) for word in command], text=True, capture_output=True, **more)
    if check and ended.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


class Podman:
    """podman with storage, networks and configuration of its own, under one folder."""

    def __init__(self, work):
        self.work = work
        conf = work / "containers.conf"
        conf.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
            f'[network]\nnetwork_config_dir = "{work}/networks"\n'
            f'[engine]\nruntime = "runc"\ntmp_dir = "{work}/tmp"\n'
            f'events_logger = "file"\ncgroup_manager = "cgroupfs"\n'
        )
        storage = work / "storage.conf"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{work}/graph"\nrunroot = "{work}/run"\n')
        self.env = dict(os.environ, CONTAINERS_CONF=str(conf), CONTAINERS_STORAGE_CONF=str(storage), BUILDAH_ISOLATION="chroot")

    def __call__(self, *arguments, **more):
        return run("podman", *arguments, env=self.env, **more)

    def play(self, documents):
        """Plays a manifest; pods already there are left alone."""
        file = self.work / "play.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        return self("kube", "play", "--network", NETWORK, file)

    def address(self, pod):
        infra = self("pod", "inspect", pod, "--format", "{{.InfraContainerID}}").strip()
        networks = json.loads(self("inspect", infra))[0]["NetworkSettings"]["Networks"]
        return networks[NETWORK]["IPAddress"]

    def size(self, image):
        return int(self("inspect", "--type", "image", image, "--format", "{{.Size}}"))

    def ended(self, container):
        return self("inspect", container, "--format", "{{.State.Status}}").strip() in ("exited", "stopped")

    def exit_code(self, container):
        return int(self("inspect", container, "--format", "{{.State.ExitCode}}"))

    def kill(self, pod):
        self("pod", "kill", pod)
        self("pod", "rm", "--force", pod)

    def logs(self, container):
        ended = subprocess.run(["podman", "logs", container], env=self.env, text=True, capture_output=True)
        return ended.stdout + ended.stderr

    def clear(self):
        """No pod and no volume is left."""
        self("pod", "rm", "--force", "--all", "--time", "0")
        self("volume", "rm", "--force", "--all")

    def close(self):
        self("pod", "rm", "--force", "--all", "--time", "0", check=False)
        self("network", "rm", "--force", NETWORK, check=False)
        self("system", "reset", "--force", check=False)
        for mount in sorted((line.split()[1] for line in open("/proc/mounts")), reverse=True):
            if mount.startswith(f"{self.work}/"):
                run("umount", "--lazy", mount, check=False)


def base_image(podman):
    """A base without a registry: Debian's smallest, kept as a tar for the next time."""
    tar = deploylib.ROOT / "target/images/base.tar"
    if not tar.exists():
        tar.parent.mkdir(parents=True, exist_ok=True)
        rootfs = podman.work / "rootfs"
        run("debootstrap", "--variant=minbase", deploylib.debian_release(), rootfs)
        run("tar", "-C", rootfs, "--exclude=./var/cache/apt/archives/*.deb", "-cf", f"{tar}.part", ".")
        os.rename(f"{tar}.part", tar)
        shutil.rmtree(rootfs)
    podman("import", tar, BASE_IMAGE)
