from cyopt._cpu import Plan as Plan
from cyopt._cpu import set_config as set_config
