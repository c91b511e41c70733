# make pipeline            everything, from nothing to an aligned model and its report
# make help                the rest
#
# A target is a stage's summary.json: it is written last, so its presence means the stage is finished.

SHELL       := bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= default
RUNS   ?= runs
# What a run was begun with holds for every later command that names none of it: `make evaluate RUN=x` is enough.
ASKED  := $(RUNS)/$(RUN)/.asked
OWN    := $(strip $(foreach v,$(sort $(filter %_ARGS,$(.VARIABLES))),$(if $(findstring command,$(origin $(v))),$(v))))# of one stage: make pipeline PPO_ARGS='trainer.vf_coef=0.2'
ifeq ($(origin MODEL)$(origin DATA)$(origin RECIPE)$(origin ARGS)$(OWN),undefinedundefinedundefinedundefined)
ifneq ($(wildcard $(ASKED)),)
asked  = $(shell sed -n 's/^$(1)=//p' $(ASKED))
MODEL  := $(call asked,MODEL)
DATA   := $(call asked,DATA)
RECIPE := $(call asked,RECIPE)
ARGS   := $(call asked,ARGS)
OWN    := $(shell sed -n 's/^\([A-Z]*_ARGS\)=.*/\1/p' $(ASKED))
$(foreach v,$(OWN),$(eval $(v) := $$(call asked,$(v))))
endif
endif
MODEL  ?=
DATA   ?=
ARGS   ?=
define newline


endef
space := $(subst ,, )
override ARGS := $(strip $(subst $(newline), ,$(ARGS)))
# The embedded recipe is what a bare `make pipeline` runs; with a MODEL or DATA of your own the plain defaults hold.
RECIPE ?= $(if $(MODEL)$(DATA),,embedded)

ifneq ($(RECIPE),)
ifeq ($(wildcard recipes/$(RECIPE)/*.yaml),)
$(error RECIPE=$(RECIPE): no such recipe; known: $(notdir $(wildcard recipes/*)))
endif
endif

# Every stage of a pipeline, in order, and a word `ppo<sft` for each stage that another may start from: what the files
# of rlhf_recipes/stages say of themselves. Asking them needs no virtual environment.
GRAPH  := $(shell { $(PYTHON) -m rlhf_recipes --stages || $(BIN)/python -m rlhf_recipes --stages; } 2>/dev/null)
ifeq ($(GRAPH),)
$(error $(PYTHON) -m rlhf_recipes --stages lists no stage; it wants Python 3.11 or newer, PYTHON=<path> names one)
endif
ORDER  := $(foreach word,$(GRAPH),$(if $(findstring <,$(word)),,$(word)))
before  = $(patsubst $(1)<%,%,$(filter $(1)<%,$(GRAPH)))
# A recipe's stages are its files. Without a recipe they are those of InstructGPT, for model=tiny those of the embedded
# recipe: that model has to be pretrained.
PLAN   := $(or $(RECIPE),$(if $(filter tiny,$(or $(MODEL),tiny)),embedded,instructgpt))
STAGES := $(foreach s,$(ORDER),$(if $(wildcard recipes/$(PLAN)/$(s).yaml),$(s)))
upper   = $(shell printf %s $(1) | tr a-z A-Z)
ifneq ($(filter-out $(foreach s,$(ORDER),$(call upper,$(s))_ARGS),$(OWN)),)
$(error $(filter-out $(foreach s,$(ORDER),$(call upper,$(s))_ARGS),$(OWN)): no such stage; stages: $(ORDER))
endif
export MODEL DATA RECIPE ARGS $(OWN)
quote   = '$(subst ','\'',$(1))'
summary = $(RUNS)/$(RUN)/$(1)/summary.json
made    = $(foreach s,$(filter $(STAGES),$(1)),$(call summary,$(s)))
command = $(BIN)/python -m rlhf_recipes stage=$(1) $(if $(wildcard recipes/$(RECIPE)/$(1).yaml),recipes=$(RECIPE)/$(1)) \
            $(if $(MODEL),model=$(MODEL)) $(if $(DATA),data=$(DATA)) run.name=$(RUN) run.root=$(RUNS) $(ARGS) $($(filter $(call upper,$(1))_ARGS,$(OWN)))

.PHONY: help setup pipeline report chat export test test-trl1.16 lint clean-run same-run $(ORDER)

help:  ## this text
	@echo "make <target> [RUN=name] [MODEL=qwen0.5b] [DATA=hh_rlhf] [RECIPE=gsm8k]"
	@echo "     [ARGS='seed=1 trainer.max_steps=10'] [PPO_ARGS='…' for one stage]"
	@echo
	@grep -hE '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9.-]+):.*## (.*)/  make \1 \t\2/' | expand -t 24
	@echo "  make $(subst $(space),|,$(strip $(ORDER)))"
	@echo "                        that stage of RUN and whatever it still needs"

setup: $(VENV)/.ready  ## make .venv with everything a run needs, versions pinned by constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; install Python 3.11+ or give PYTHON=<path>"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[wandb,tensorboard]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[wandb,tensorboard,trackio,qlora,rewards,eval,sweep,dev]'
	@touch $@

pipeline: same-run report  ## every stage of the recipe that is missing or out of date, then the report

report: $(foreach s,$(STAGES),$(call summary,$(s))) | $(VENV)/.ready  ## tables on the screen and report.html of a run
	@$(call command,report)

chat: | $(VENV)/.ready  ## talk with the run's newest model
	@$(call command,chat)

export: | $(VENV)/.ready  ## its newest model as a folder that needs this package no more
	@$(call command,export)

# What each stage starts from; a stage that the recipe lacks is left out.
$(foreach s,$(ORDER),$(eval $(call summary,$(s)): $(call made,$(call before,$(s)))))

$(ORDER): %: $(RUNS)/$(RUN)/%/summary.json

# Older than its settings or the run's data files: the stage is asked again, compares what it was made with, and has
# nothing to do, makes it again or says what differs. After the bar, order only: a new .venv is no reason to train again.
.SECONDEXPANSION:
SETTINGS := $(wildcard conf/*.yaml conf/*/*.yaml)
FILES    := $(wildcard $(shell sed -n 's/^  "data:\(.*\)": {$$/\1/p' $(RUNS)/$(RUN)/*/inputs.json 2>/dev/null))
$(RUNS)/$(RUN)/%/summary.json: $(SETTINGS) $(FILES) $$(wildcard recipes/$(RECIPE)/$$*.yaml) | $(VENV)/.ready same-run
	@echo "== $* =="
	@[ -t 1 ] && export RLHF_RECIPES_PROGRESS=bar FORCE_COLOR=1; \
	$(call command,$*) 2>&1 | tee -i $(RUNS)/$(RUN)/$*.log; code=$${PIPESTATUS[0]}; \
	if [ $$code -ne 0 ]; then \
	  printf '\n%s\n' "stage $* failed (exit code $$code)"; \
	  printf '  %-9s %s\n' command $(call quote,$(strip $(call command,$*))) log "$(RUNS)/$(RUN)/$*.log"; \
	  case $$code in \
	    2)   echo "  remedy    mend what the line above names, then run make again";; \
	    130|143) ;; \
	    137) echo "  remedy    out of memory: the command above with preflight=true says what would fit; then RUN=<new> ARGS='…', e.g. 'peft=lora'";; \
	    *)   echo "  remedy    read the log; out of memory: a smaller trainer.per_device_train_batch_size or peft=lora;"; \
	         echo "            loss not finite: a smaller trainer.learning_rate; HYDRA_FULL_ERROR=1 shows the traceback";; \
	  esac; \
	  echo "  then      the same make command goes on from here"; exit $$code; \
	fi

test: $(VENV)/.ready-dev  ## lint and all tests (real data where RLHF_RECIPES_REAL_DATA points to it)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

# The same packages but for these two, found before those of $(VENV).
$(VENV)/trl1.16/.ready: constraints-trl1.16.txt $(VENV)/.ready-dev
	rm -rf $(@D) && $(PYTHON) -m venv --without-pip $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D)/first -r $<
	@site='import site; print(site.getsitepackages()[0])'; \
	printf '%s\n' '$(CURDIR)' '$(CURDIR)/$(@D)/first' "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" \
	  > $$($(@D)/bin/python -c "$$site")/first.pth
	@touch $@

test-trl1.16: $(VENV)/trl1.16/.ready  ## the tests that meet TRL, on TRL 1.16 and transformers 5.24
	OMP_NUM_THREADS=1 $(VENV)/trl1.16/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder \
	  tests/test_contract.py tests/ppo tests/dpo tests/kto tests/grpo tests/rloo tests/callbacks tests/stages --deselect tests/stages/test_tinystories.py

lint: $(VENV)/.ready-dev  ## ruff, with what it can mend mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A run is of one MODEL, DATA, RECIPE and ARGS: another choice under the same name would mix two runs unseen.
# As long as no stage is finished, nothing can be mixed and a mistyped choice may be mended.
same-run:
	@mkdir -p $(RUNS)/$(RUN); asked=$$(printf '%s\n' "MODEL=$$MODEL" "DATA=$$DATA" "RECIPE=$$RECIPE" "ARGS=$$ARGS" $(foreach v,$(OWN),"$(v)=$$$(v)")); \
	held=$$(cat $(ASKED) 2>/dev/null || echo "$$asked"); \
	if [ "$$held" != "$$asked" ] && ls $(RUNS)/$(RUN)/*/summary.json >/dev/null 2>&1; then \
	  echo "error: run $(RUN) was made with" $$held"; choose RUN=<new>, or make clean-run RUN=$(RUN)"; exit 2; fi; \
	echo "$$asked" > $(ASKED)

clean-run:  ## throw away one run: make clean-run RUN=x
	@case '$(RUN)' in ''|.*|*/*) echo "error: RUN=$(RUN): expected the name of one run in $(RUNS)/"; exit 2;; esac
	rm -rf $(RUNS)/$(RUN)
