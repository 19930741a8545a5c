# Runs one command ($1, or standard input when it is too long) with the working folder and exported variables of the one before.
__codegen_state="${HOME:-/tmp}/.codegen/shell-state"
__codegen_command="${1-}"
[ "$#" -gt 0 ] || __codegen_command="$(cat)"
set --
__codegen_save() {
  [ -n "$__codegen_state" ] || return 0
  [ -d "${__codegen_state%/*}" ] || mkdir -p "${__codegen_state%/*}"
  { declare -px; printf 'cd -- %q || { echo "codegen: the working folder is gone, back in $__codegen_home" >&3; cd -- "$__codegen_home"; }\n' "$PWD"; } >|"$__codegen_state"
  __codegen_state=
}
__codegen_exit() { { __codegen_code=$?; set +exuf; set +o noclobber; trap '' ERR DEBUG; __codegen_save; } 2>/dev/null; return "$__codegen_code"; }
__codegen_home="$PWD"
if [ -r "$__codegen_state" ]; then . "$__codegen_state" 3>&2 2>/dev/null; fi
trap __codegen_exit EXIT
shopt -s execfail
eval "$__codegen_command"
__codegen_exit
exit "$__codegen_code"
