"A log handler that Snakemake finds by this package's name: `snakemake --logger dream-ood`."
from dream_ood.workflow import LogHandler

__all__ = ['LogHandler']
