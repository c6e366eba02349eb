# make demo   the whole program on a phantom: data, four stages, sheets, scores; its
#             trainings start from the weights that come with the package
#             make demo DATA=DIR takes a folder of yours in place of the phantom
# make demo-scratch
#             the same from nothing; says before it starts how long it will take here
# make test   the test suite
# make fuzz   9000 spoiled files, tables and names: each is refused in a sentence, or read
#             as it is
# make faults 400 faults (kills, damaged files, wrong flags, full disks, rights): each ends
#             in the same result as without it, or in a clear error
# make test-latest PYTHON=python3.12
#             on the newest TensorFlow and Keras: the suite but for what takes long and is
#             alike on both, and SavedModels of one stack on the other
# make lint   ruff, and every file compiled
# make setup  only the virtual environment
#
# Each makes the virtual environment it needs, with any Python 3.10 to 3.13:
#     make test PYTHON=python3.12

PYTHON ?= python3
DEMO ?= demo
DEMO_SCRATCH ?= demo-scratch
# A folder of yours for the demo, in place of a phantom.
DATA ?=

TAG := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv/$(TAG)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Of the stack with tensorflow-addons, for make test-latest.
OTHER ?= $(firstword $(wildcard $(CURDIR)/.venv/3.11/bin/python $(CURDIR)/.venv/3.10/bin/python))
XDIST := -n 2 --dist loadfile --no-loadscope-reorder

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: setup demo demo-scratch test test-latest fuzz faults lint clean

setup: $(READY)

$(READY): setup.py
	@case "$(TAG)" in 3.10|3.11|3.12|3.13) ;; *) \
	  echo "Python $(TAG) is not supported: choose one of 3.10 to 3.13, as in" >&2; \
	  echo "    make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1;; esac
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev,demo,test]"
	@touch $@

# The five commands of a demo, with the flagfiles of configs/$(1) in the folder $(2).
define DEMO_OF
	$(if $(DATA),@true,$(BIN)/python) prepare_data.py phantom --output_dir=$(2)/phantom --flagfile=configs/$(1)/phantom.flags
	$(BIN)/python train_structural.py --data_dir=$(or $(DATA),$(2)/phantom) --run_dir=$(2)/structural --cache_dir=$(2)/cache --flagfile=configs/$(1)/structural.flags
	$(BIN)/python train_multimodal.py --data_dir=$(or $(DATA),$(2)/phantom) --run_dir=$(2)/multimodal --split=$(2)/structural/split.json --cache_dir=$(2)/cache --flagfile=configs/$(1)/multimodal.flags
	$(BIN)/python build_dataset.py --data_dir=$(or $(DATA),$(2)/phantom) --structural_run=$(2)/structural --multimodal_run=$(2)/multimodal --output_dir=$(2)/synthetic --cache_dir=$(2)/cache --flagfile=configs/$(1)/dataset.flags
	$(BIN)/python eval_segmentation.py --data_dir=$(or $(DATA),$(2)/phantom) --run_dir=$(2)/segmentation-real --split=$(2)/structural/split.json --cache_dir=$(2)/cache --flagfile=configs/$(1)/segmentation.flags
	$(BIN)/python eval_segmentation.py --data_dir=$(or $(DATA),$(2)/phantom) --run_dir=$(2)/segmentation-both --synthetic_dir=$(2)/synthetic --cache_dir=$(2)/cache --flagfile=configs/$(1)/segmentation.flags
	@echo
	@echo "synthetic sets, map to slices:     $(2)/synthetic/samples.png"
	@echo "maps rebuilt and drawn:            $(2)/structural/maps.png"
	@echo "slices from maps of real ones:     $(2)/multimodal/generated.png"
	@echo "real slices, translated and back:  $(2)/multimodal/translations.png"
	@echo "lesions found in held-out slices:  $(2)/segmentation-both/segmentation.png"
	@echo "scores, real alone and both:       $(2)/results.jsonl"
endef

demo: $(READY)
	$(call DEMO_OF,demo,$(DEMO))

demo-scratch: $(READY)
	$(BIN)/python -m benchmarks.how_long --configs=configs/demo-scratch
	$(call DEMO_OF,demo-scratch,$(DEMO_SCRATCH))

test: $(READY)
	$(BIN)/python -m pytest $(XDIST)

test-latest: $(READY)
	@case "$(TAG)" in 3.12|3.13) ;; *) \
	  echo "The newest TensorFlow is for Python 3.12 or 3.13, this is $(TAG): choose, as in" >&2; \
	  echo "    make test-latest PYTHON=python3.12" >&2; exit 1;; esac
	@test -x "$(OTHER)" || { \
	  echo "The stack with tensorflow-addons is needed too: make setup PYTHON=python3.11" >&2; \
	  exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade tensorflow keras
	BRATS_GAN_OTHER_PYTHON="$(OTHER)" $(BIN)/python -m pytest $(XDIST) -m "not once"

fuzz: $(READY)
	$(BIN)/python -m pytest tests/test_fuzz*.py --hypothesis-profile=fuzz --hypothesis-show-statistics

faults: $(READY)
	$(BIN)/python -m benchmarks.faults

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m compileall -q *.py brats_gan tests benchmarks

clean:
	rm -rf .venv $(DEMO) $(DEMO_SCRATCH) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
