"""Training-free indicators: what a network at its initialisation says of its accuracy, see autotsnet/README.md."""

from autotsnet.search.indicators import activations as activations
from autotsnet.search.indicators import gradients as gradients
from autotsnet.search.indicators import kernel as kernel
from autotsnet.search.indicators import trivial as trivial
from autotsnet.search.indicators.judge import IndicatorJudge as IndicatorJudge
from autotsnet.search.indicators.subject import INDICATORS as INDICATORS
from autotsnet.search.indicators.subject import Indicator as Indicator
from autotsnet.search.indicators.subject import IndicatorError as IndicatorError
from autotsnet.search.indicators.subject import Subject as Subject
from autotsnet.search.indicators.subject import indicator as indicator
from autotsnet.search.indicators.subject import measure as measure
