# Thin: `make setup` prepares the machine, every other target is Invoke's task of that name.
INVOKE = .venv/bin/invoke

.PHONY: help setup demo test lint images plan build-image verify-image boot clean

help: setup
	@$(INVOKE) --list

setup:
	@./scripts/setup

test: setup
	@$(INVOKE) test --lint

demo lint images clean: setup
	@$(INVOKE) $@

plan build-image verify-image boot: setup
	@$(INVOKE) $@ $(if $(IMAGE),--image $(IMAGE))
