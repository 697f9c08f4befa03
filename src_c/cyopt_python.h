/* For C extensions of Python: cyopt's functions, from the installed package. */
#ifndef CYOPT_PYTHON_H
#define CYOPT_PYTHON_H

#include <Python.h>

#include "cyopt.h"

/* Imports cyopt and returns its functions; NULL with an ImportError if that fails, or if this file
 * and the package differ in version. Call it once, while holding the GIL, and keep the result. */
static inline const struct cyopt_api *cyopt_import(void)
{
    const struct cyopt_api *api = (const struct cyopt_api *)PyCapsule_Import("cyopt._C_API", 0);
    if (api == NULL)
        return NULL;
    if (api->version != CYOPT_API_VERSION || api->size < sizeof *api) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for version %d of cyopt's C interface (%zu bytes of"
                     " functions), but the installed cyopt has version %d (%zu bytes): compile the"
                     " module again, or install the cyopt that it was made for",
                     CYOPT_API_VERSION, sizeof *api, api->version, api->size);
        return NULL;
    }
    return api;
}

#endif
