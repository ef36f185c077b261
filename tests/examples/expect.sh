# For scripts of tests: counts expectations that do not hold.
faults=0
expect() {   # expect WHAT COMMAND...
  local what=$1
  shift
  "$@" && return
  echo "not so: $what" >&2
  faults=$(( faults + 1 ))
}
