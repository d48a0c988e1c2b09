# Every target that needs the environment makes it first; it is rebuilt only when the lock changes.
VENV ?= .venv
PYTHON ?= python3
RUN := "$$VENV/bin/python" -m reproduce
SEEDS ?= 0
# For the shell: make would read a $ in RESULTS.
VERIFIED := $(if $(filter undefined,$(origin RESULTS)),results,$${RESULTS:-results})
RESULTS ?= my-results
OWN := $${RESULTS:-my-results}
EMBEDDED ?= quick
GPUS ?= 0
ENGINE ?= local
JOBS ?= 0
TIERS ?= instant,inference
REASON ?=
# Recipes take them from the environment, quoted: there they may hold spaces, & and quotes.
export SEEDS EMBEDDED GPUS ENGINE JOBS TIERS REASON VENV PYTHON RESULTS
export OMP_WAIT_POLICY ?= PASSIVE  # spinning OpenMP threads and decoding workers slow each other down tenfold

.DEFAULT_GOAL := help
.PHONY: $(shell awk -F: '/^[a-z0-9-]+:/{print $$1}' $(MAKEFILE_LIST))  # all are commands, none is a file

#? SEEDS=0,1,2        seeds of a run or a search
#? MODELS=x3d,tsm     entries; all: the optional ones, too
#? EMBEDDED=quick     size of the embedded data: tiny, quick or full
#? GPUS=8             GPUs of a run; JOBS=1: runs at a time on a CPU; ENGINE=ray: the cluster of RAY_ADDRESS
#? RESULTS=my-results records and tables of your own; RUNS=runs: state and checkpoints; CACHE=.cache: embedded videos
#? KINETICS_ROOT=, SSV2_ROOT=   copies of the real data; ALLOW_PARTIAL=1: even where much is missing
#? DECODER=pyav        what reads videos: pyav, decord, torchcodec; VENV=.venv, PYTHON=python3: the environment's
#? TIERS=instant,inference   what check-results and accept-results look at: also speed, training
#? FROM=my-results     what update-reference takes over: a folder, or an archive of `submit`; REASON=: why, for CHANGES.md
#? WORKERS=1           processes of the tests, by default as many as cores, at most 8; CHROMIUM=: for the test of report.html
#? SETTING=base, DATA=ssv2, PART=factorial,random,repeats,speed   of videonas: which videos and budget, what is rebuilt
#? RAY_ADDRESS=host:6379   the cluster of ENGINE=ray; TRACEBACK=1: errors with all that led to them

help:  ## list the targets and the variables
	@awk -F ':.*## ' '/^##@/{printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## /{printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@awk 'BEGIN{print "\nVariables"} /^#\? /{print "  " substr($$0, 4)}' $(MAKEFILE_LIST)

env:  ## make the environment in VENV (default .venv)
	@cmp -s requirements.lock "$$VENV/requirements.lock" || { \
	  echo "making $$VENV: about 6 GB, a few minutes, once" && \
	  "$$PYTHON" -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 12) and f"Python {v[0]}.{v[1]} is not supported, 3.10 to 3.12 are; set PYTHON=")' && \
	  "$$PYTHON" -m venv "$$VENV" && \
	  { "$$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv && \
	    "$$VENV/bin/uv" pip install --quiet --no-deps --compile-bytecode --python "$$VENV/bin/python" -r requirements.lock || \
	    "$$VENV/bin/python" -m pip install --quiet --no-deps --disable-pip-version-check -r requirements.lock; } && \
	  "$$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable . && \
	  cp requirements.lock "$$VENV/requirements.lock"; }

##@ Experiments
reproduce-kinetics: env  ## train, test and tabulate on KINETICS_ROOT; without it, on embedded videos (seven to eleven minutes)
	$(RUN) run kinetics

reproduce-ssv2: env  ## the same on SSV2_ROOT; without it, on embedded videos (minutes)
	$(RUN) run ssv2

search-kinetics: env  ## search Auto-TSNet's architecture on KINETICS_ROOT; without it, on embedded videos (minutes)
	$(RUN) search kinetics

search-ssv2: env  ## the same on SSV2_ROOT
	$(RUN) search ssv2

table-kinetics: env  ## tables of Kinetics-400 and of its embedded twin, from whatever records there are
	$(RUN) table kinetics "kinetics-$$EMBEDDED"

table-ssv2: env  ## tables of Something-Something-V2 and of its embedded twin
	$(RUN) table ssv2 "ssv2-$$EMBEDDED"

table-longtail: env  ## classifiers on one training of a long tail, by how frequent classes are, from whatever records there are
	$(RUN) longtail kinetics-quick-lt

table-runtime: env  ## models at equal measured time on this device instead of equal GMACs (minutes; nothing else may run)
	$(RUN) runtime "ssv2-$$EMBEDDED"

##@ Evidence
verify: env  ## recompute every accuracy and every table of the reference, or of RESULTS=; fails where one disagrees
	$(RUN) verify "$(VERIFIED)"

update-reference: env  ## maintainers: take FROM= (my-results, or an archive of `submit`) over into results/; REASON= is noted
	$(RUN) update-reference "$${FROM:-$(OWN)}"

report: env  ## all tables and pictures of RESULTS as one page, report.html
	$(RUN) report

table-natives: env  ## size and cost of every native variant beside the published digits
	$(RUN) natives

check-results: env  ## do the recipes yield what stands beside them? TIERS=instant,inference,speed,training
	$(RUN) check

accept-results: env  ## make what they yield now the expectation; REASON= goes into results/CHANGES.md
	$(RUN) accept

##@ Studies of the suite itself: records go to RESULTS/studies
study-planted: env  ## the search engines on a space whose best is known (minutes)
	"$$VENV/bin/python" -m reproduce.studies.planted

study-search: env  ## searched against random architectures, supernet against stand-alone ranking (an hour on a CPU)
	"$$VENV/bin/python" -m reproduce.studies.chance --suite "ssv2-$$EMBEDDED"

study-headroom: env  ## in which setting of the embedded videos runs tell architectures apart (hours; goes on where it was)
	"$$VENV/bin/python" -m reproduce.studies.headroom

study-presets: env  ## one search step at full size of each preset: time and peak memory (minutes)
	"$$VENV/bin/python" -m reproduce.studies.presets

study-diversity: env  ## does PV-NAS-style's schedule keep searched networks diverse (minutes)
	"$$VENV/bin/python" -m reproduce.studies.diversity --suite "ssv2-$$EMBEDDED"

study-decoding: env  ## videos to clips against mmaction2's pipeline: speed, equal views, memory (half an hour)
	"$$VENV/bin/python" -m reproduce.studies.decoding

study-regressions: env  ## planted regressions in every family, and clean repeats: what the gate says (minutes)
	"$$VENV/bin/python" -m reproduce.studies.regressions

study-slower: env  ## what its speed tier says of networks 15 % slower; nothing else may run (half an hour)
	"$$VENV/bin/python" -m reproduce.studies.regressions --speed

study-verdicts: env  ## how often verdicts err, and which differences they find, by simulation (minutes)
	"$$VENV/bin/python" -m reproduce.studies.verdicts

study-kernels: env  ## are accuracies unchanged by the quick layers of a training (a quarter of an hour)
	"$$VENV/bin/python" -m reproduce.studies.kernels

study-growth: env  ## does any cost grow faster than records, models, seeds, videos or frames (minutes)
	"$$VENV/bin/python" -m reproduce.studies.growth

##@ Architectures as a table
videonas: env  ## train about 400 networks of equal GMACs into RESULTS/videonas, or PART= of it (hours; goes on where it was)
	"$$VENV/bin/python" -m reproduce.studies.videonas

study-replay: env  ## search strategies on the table of videonas: regret against trainings (minutes)
	"$$VENV/bin/python" -m reproduce.studies.replay --table "$(VERIFIED)/videonas/videonas.parquet"

##@ Development
lint: env  ## style: ruff check and format
	"$$VENV/bin/ruff" check .
	"$$VENV/bin/ruff" format --check .

chromium: env  ## a headless Chromium in VENV, to test report.html in, where none is installed (200 MB, seconds, by npm)
	@test -n "$$CHROMIUM" || command -v chromium > /dev/null || test -x "$$VENV/chromium/chromium" || { \
	  test "$$(uname -sm)" = "Linux x86_64" && mkdir -p "$$VENV/chromium" && cd "$$VENV/chromium" && \
	  timeout 120 npm install --silent --no-save --prefix package @sparticuz/chromium@147.0.0 && \
	  TMPDIR="$$PWD" AWS_EXECUTION_ENV=AWS_Lambda_nodejs20.x \
	    node -e 'require("./package/node_modules/@sparticuz/chromium").executablePath()' && rm -r package; } || \
	  echo "no Chromium by npm here: set CHROMIUM=, or the test of report.html is skipped"

# Tests of times and ports go last, one after another; a worker takes 1.5 GB.
PYTEST = "$$VENV/bin/python" -m pytest -q
PROCESSES = $(or $(WORKERS),auto --maxprocesses 8)

test: env chromium  ## all tests but the slow ones, on all cores
	$(PYTEST) -m "not slow and not alone" -n $(PROCESSES) --dist worksteal
	$(PYTEST) -m "not slow and alone"

test-all: env chromium  ## all tests
	$(PYTEST) -m "not alone" -n $(PROCESSES) --dist worksteal
	$(PYTEST) -m alone

mutants: env  ## do the tests kill faults planted over all packages, one by one (half an hour)
	"$$VENV/bin/python" -m reproduce.studies.mutants

bench: env  ## throughput of all native variants and of the peers' networks on this machine, in every mode
	$(RUN) bench

bench-peers: env  ## ours as trained and as tested, over the peers' own networks in their default; ratios (minutes)
	$(RUN) bench --peers

bench-save: env  ## time what is slow in this code (pytest-benchmark), as a baseline in RESULTS/benchmarks
	"$$VENV/bin/python" -m pytest -q --benchmark-enable --benchmark-only --benchmark-storage="$(OWN)/benchmarks" --benchmark-save=baseline tests/bench

bench-compare: env  ## time it again, beside the reference's baseline, or that of RESULTS=
	"$$VENV/bin/python" -m pytest -q --benchmark-enable --benchmark-only --benchmark-storage="$(VERIFIED)/benchmarks" tests/bench --benchmark-compare

# Without opencv-python: it and opencv-contrib-python, which has more, write the same folder, and whichever comes last stays.
lock: env  ## renew requirements.lock from pyproject.toml
	"$$VENV/bin/python" -m pip install --quiet uv
	"$$VENV/bin/uv" pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-package opencv-python -c constraints.txt -o requirements.lock

clean:  ## remove the environment, embedded videos and run folders (records stay)
	rm -rf "$$VENV" .cache runs
