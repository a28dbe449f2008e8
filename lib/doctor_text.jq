# SPDX-License-Identifier: GPL-2.0-only
# What the doctor found, as people read it.

if .severity == "fine" then "fine: \(.found)"
elif .severity == "unchecked" then "not checked: \(.found)" + (if .command then ": \(.command)" else "" end)
elif .why == null then "\(.severity): \(.found)", ""
else "\(.severity): \(.found)", "  \(.why)", if .command then "  \(.command)", "" else "" end end
