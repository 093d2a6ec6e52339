# One layer of an image, or two: boot a copy of the previous disk, run one play of
# playbooks/image.yml in it, perhaps the next one, power off. Every value comes from
# src/serai/image/build/layer.py; nothing here knows an image.
# Valid in Packer 1.6.6 (Debian's and Ubuntu's package) and in 1.11+ with the plugins of plugins/.

variable "work" {
  type        = string
  description = "The folder of this build; the disk is left in its folder 'output'."
}

variable "disk" {
  type        = string
  description = "The disk to boot a copy of, qcow2."
}

variable "disk_size" {
  type        = string
  description = "Virtual size of the disk, such as 10240M."
}

variable "sessions_size" {
  type        = string
  description = "Virtual size of the blank second disk, which is no part of the result."
}

variable "qemu_binary" {
  type = string
}

variable "machine_type" {
  type = string
}

variable "accelerator" {
  type = string
}

variable "qemuargs" {
  type        = list(list(string))
  description = "Flags and values; they replace whatever Packer would give for the same flag."
}

variable "user" {
  type        = string
  description = "The build user, whom cloud-init makes and the last layer removes."
}

variable "key" {
  type        = string
  description = "The build user's private key."
}

variable "ssh_timeout" {
  type = string
}

variable "shutdown_command" {
  type = string
}

variable "host_alias" {
  type        = string
  description = "The machine's name in the inventory."
}

variable "playbook" {
  type = string
}

variable "ansible" {
  type        = string
  description = "The ansible-playbook to run."
}

variable "ansible_arguments" {
  type = list(string)
}

variable "then" {
  type        = list(list(string))
  description = "As ansible_arguments, of the layer that follows in the same machine, if one does."
}

variable "ansible_environment" {
  type = list(string)
}

source "qemu" "layer" {
  iso_url              = var.disk
  iso_checksum         = "none" # the caller knows the disk by its content already
  disk_image           = true
  disk_size            = var.disk_size
  disk_additional_size = [var.sessions_size]
  format               = "qcow2"
  skip_compaction      = true # the caller writes the result, compressed, in one pass
  output_directory     = "${var.work}/output"
  vm_name              = "disk.qcow2"

  qemu_binary  = var.qemu_binary
  machine_type = var.machine_type
  accelerator  = var.accelerator
  qemuargs     = var.qemuargs
  headless     = true
  disable_vnc  = true

  http_directory    = "${var.work}/seed"
  http_bind_address = "127.0.0.1"

  ssh_username           = var.user
  ssh_private_key_file   = var.key
  ssh_timeout            = var.ssh_timeout
  ssh_handshake_attempts = 1000 # sshd may answer before the build user is there
  shutdown_command       = var.shutdown_command
  shutdown_timeout       = "10m"
}

build {
  sources = ["source.qemu.layer"]

  # Until cloud-init is done it may hold apt's lock. This file is its own sign of that, and looking
  # for it costs an emulated machine less than 'cloud-init status --wait' does. Whether all went
  # well is not asked: what the image needs is asserted by the roles and by verification.
  provisioner "shell" {
    inline  = ["until test -e /var/lib/cloud/instance/boot-finished; do sleep 1; done"]
    timeout = "30m"
  }

  provisioner "ansible" {
    command          = var.ansible
    playbook_file    = var.playbook
    user             = var.user
    use_proxy        = false
    host_alias       = var.host_alias
    extra_arguments  = var.ansible_arguments
    ansible_env_vars = var.ansible_environment
  }

  # Between two layers the disk is kept as it is now: all has to be on it, and Packer has to wait
  # until who runs it has seen to that.
  dynamic "provisioner" {
    for_each = var.then
    labels   = ["shell"]
    content {
      inline = ["sudo -n sync"]
    }
  }

  dynamic "provisioner" {
    for_each = var.then
    labels   = ["shell-local"]
    content {
      inline = [
        "touch '${var.work}/between'",
        "while test -e '${var.work}/between'; do sleep 0.1; done",
      ]
    }
  }

  dynamic "provisioner" {
    for_each = var.then
    labels   = ["ansible"]
    content {
      command          = var.ansible
      playbook_file    = var.playbook
      user             = var.user
      use_proxy        = false
      host_alias       = var.host_alias
      extra_arguments  = provisioner.value
      ansible_env_vars = var.ansible_environment
    }
  }
}
