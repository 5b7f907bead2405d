#!/usr/bin/env bash
# Audits the commands in $TAILBITE_COMMANDS, one a line.
#
#   TAILBITE_COMMANDS   the commands, NAME=COMMAND or COMMAND, with {host} and {port}
#   TAILBITE_IMAGE      a container image in which they run; empty for none
#   TAILBITE_REQUIRE    immune (default) or aborts
#   TAILBITE_ARGUMENTS  more arguments of tailbite audit, split into words
#   TAILBITE_VERSION    which tailbite to install; empty for the newest. Nothing is installed if it is there already.
#   TAILBITE_FOLDER     the folder for audit.xml, audit.html and the evidence
set -euo pipefail

folder=${TAILBITE_FOLDER:-tailbite-audit}
mkdir -p "$folder"

if ! command -v tailbite > /dev/null; then
  python3 -m venv "$folder/.venv"
  "$folder/.venv/bin/pip" install --quiet "tailbite${TAILBITE_VERSION:-}"
  PATH="$folder/.venv/bin:$PATH"
fi

arguments=(--require "${TAILBITE_REQUIRE:-immune}" --junit "$folder/audit.xml" --html "$folder/audit.html")
arguments+=(--evidence "$folder/evidence")
[ -z "${TAILBITE_IMAGE:-}" ] || arguments+=(--image "$TAILBITE_IMAGE")
[ "${GITHUB_ACTIONS:-}" != true ] || arguments+=(-o github)
# Words are split here on purpose: these are options, not names of files.
# shellcheck disable=SC2206
arguments+=(${TAILBITE_ARGUMENTS:-})

while IFS= read -r line; do
  [[ $line =~ [^[:space:]] ]] || continue
  if [[ $line =~ ^[[:space:]]*([A-Za-z0-9._-]+)=(.*\{port\}.*)$ ]]; then
    arguments+=(--name "${BASH_REMATCH[1]}" --command "${BASH_REMATCH[2]}")
  else
    arguments+=(--name "$(sed 's/^[[:space:]]*//; s/[[:space:]].*//; s!.*/!!' <<< "$line")" --command "$line")
  fi
done <<< "${TAILBITE_COMMANDS:?set TAILBITE_COMMANDS to the commands to audit}"

[ -z "${GITHUB_OUTPUT:-}" ] || echo "report=$folder/audit.xml" >> "$GITHUB_OUTPUT"

# Ubuntu 24.04 restricts user namespaces with AppArmor: without them the audit needs root.
if unshare -Urn true 2> /dev/null || [ "$(id -u)" = 0 ]; then
  exec tailbite audit "${arguments[@]}"
fi
exec sudo --preserve-env=PATH,GITHUB_STEP_SUMMARY "$(command -v tailbite)" audit "${arguments[@]}"
