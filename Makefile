# Thin: `make setup` prepares this host; every other target is the task of Invoke's of that name, and
# IMAGE=X and ARGS="--more options" are passed to it.
INVOKE = .venv/bin/invoke

.PHONY: help setup test
.SUFFIXES:

help: setup
	@$(INVOKE) --list

setup:
	@./scripts/setup

test: setup
	@$(INVOKE) test --lint $(ARGS)

# Otherwise the next rule would be for this file too.
Makefile: ;

%: setup
	@$(INVOKE) $@ $(if $(IMAGE),--image $(IMAGE)) $(ARGS)
