"""What a dataset holds, and what is wrong with it: `raudio data inspect`, and a search's preflight.

The audio was measured when the dataset was prepared (`raudio.data.facts`); here only the rows'
small columns are read. `problem` says what a problem is and what a check is given; `splits`,
`labels`, `sound` and `shortcuts` are the checks; `gather` runs them; `text`, `html` and `preflight`
show what was found.
"""

from raudio.data.inspect.gather import Inspection, inspect
from raudio.data.inspect.problem import Problem

__all__ = ["Inspection", "Problem", "inspect"]
