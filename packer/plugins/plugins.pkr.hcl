# For 'packer init packer/plugins' on Packer 1.7 and newer, whose plugins come separately. It lies
# in a folder of its own because Packer 1.6.6, which has them built in, refuses this block.
packer {
  required_plugins {
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.1.0"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}
