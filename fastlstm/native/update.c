/* What optimisers do with parameters and gradients. */

#include "internal.h"

fl_status fl_update(const fl_rule *given, int32_t itemsize, int64_t count, void *p, const void *g, void *const *moments,
                    int isa)
{
    fl_rule own;
    fl_status status;
    const fl_rule *rule = fl_known(given, &own, sizeof own, &status);
    if (!rule || (status = fl_check_update(rule, itemsize, count, p, g, moments, isa)))
        return status;
    fl_kernels_of(isa, itemsize)->update(rule, count, p, g, moments);
    return FL_OK;
}

fl_status fl_all_finite(int32_t itemsize, int64_t count, const void *x, int isa, int32_t *finite)
{
    if (!finite)
        return FL_NULL;
    const fl_status status = fl_check_numbers(itemsize, count, x, isa);
    if (!status)
        *finite = fl_kernels_of(isa, itemsize)->all_finite(count, x);
    return status;
}
