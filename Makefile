# Thin: `make setup` prepares this host; the other targets are the commonest of Invoke's tasks.
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
