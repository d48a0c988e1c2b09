"""Search engines over encoded architectures; they know nothing of networks."""

from autotsnet.search.distribution import ArchitectureDistribution as ArchitectureDistribution
from autotsnet.search.encoding import Restriction as Restriction
from autotsnet.search.estimator import AllSamplesFailedError as AllSamplesFailedError
from autotsnet.search.estimator import ImportanceAccumulator as ImportanceAccumulator
from autotsnet.search.fpnas import FPNAS as FPNAS
from autotsnet.search.fpnas import FPNASOptions as FPNASOptions
from autotsnet.search.fpnas import parsec_options as parsec_options
from autotsnet.search.reinforce import Reinforce as Reinforce
from autotsnet.search.strategies import Evolution as Evolution
from autotsnet.search.strategies import EvolutionOptions as EvolutionOptions
from autotsnet.search.strategies import RandomSearch as RandomSearch
from autotsnet.search.strategies import Strategy as Strategy
