"""Why a recurrence undoes a blur: the experiments of SVRNN's paper."""
