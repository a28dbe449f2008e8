# SPDX-License-Identifier: GPL-2.0-only
# From the manual, mdoc(7), to the screen of `help`: the form of each command, and the first paragraph of what is said of
# it. With -v synopsis=1 the forms alone. It knows the macros that the manual uses in these places; another one is an error.

BEGIN {
	TEXT = 31 # column where it begins
	WIDTH = 118
	split("Ic Cm Ar Em Pa Ev Sx Xo Xc It", list, " ")
	for (i in list) unmarked[list[i]] = 1 # what follows is printed as it is
}

# Adds a word to what is collected, without a blank before it if it is tight.
function put(word, tight) {
	collected = collected (collected == "" || tight || glue ? "" : " ") word
	glue = 0
}

function put_glue(word, tight) {
	put(word, tight)
	glue = 1
}

# Adds a line of the manual.
function collect(    n, i, words, closing) {
	if ($0 !~ /^\./) {
		put($0)
		return
	}
	n = split(substr($0, 2), words, " ")
	for (i = 1; i <= n; i++) closing = collect_word(words[i], closing)
	put(closing, 1)
}

# CLOSING is what is to be put at the end of the line. Returns what that is now.
function collect_word(word, closing) {
	if (word in unmarked) return closing
	if (word == "Nm") put(PROGRAM)
	else if (word == "Ns") glue = 1
	else if (word == "Fl") put_glue("-")
	else if (word == "|") put_glue("|", 1)
	else if (word == "...") put("...", 1)
	else if (word == "Op" || word == "Ql") {
		put_glue(word == "Op" ? "[" : "`")
		return (word == "Op" ? "]" : "`") closing
	} else if (word ~ /^[.,;:]$/) {
		put(closing word, 1)
		return ""
	} else if (word == "\\&:") put_glue(":")
	else if (word ~ /^[A-Z][a-z]$/) fail("the macro " word)
	else put(word)
	return closing
}

function fail(what) {
	print PROGRAM ": help does not know " what " in line " FNR " of its manual" | "cat >&2"
	collected = ""
	exit 1
}

# Prints words from where the last one ended, and below it from an indent on. The first goes there without a blank.
function fill(words, n, indent,    i) {
	for (i = 1; i <= n; i++) {
		if (i > 1 && column + 1 + length(words[i]) > WIDTH) {
			printf "\n%" indent "s", ""
			column = indent
		} else if (i > 1) {
			printf " "
			column++
		}
		printf "%s", words[i]
		column += length(words[i])
	}
}

# Prints what is collected, and begins to collect something else: a form, text of it, a paragraph, or nothing.
function next_is(what) {
	if (collecting == "form" && synopsis) print collected
	else if (collected != "" && !synopsis) {
		if (collecting == "form") show_form()
		else if (collecting == "text") show_text()
		else if (collecting == "paragraph") show_paragraph()
	}
	collecting = what
	collected = ""
	glue = 0
}

function new_line() {
	if (column) print ""
	column = 0
}

# Broken before optional words only.
function show_form(    words) {
	new_line()
	printf "  "
	column = 2
	gsub(/ \[/, "\n[", collected)
	fill(words, split(collected, words, "\n"), TEXT)
}

# A sentence of the manual is a remark here.
function show_text(    words) {
	sub(/\.$/, "", collected)
	if (collected ~ /^[A-Z][a-z ]/) collected = tolower(substr(collected, 1, 1)) substr(collected, 2)
	if (column >= TEXT) new_line()
	printf "%" (TEXT - column) "s", ""
	column = TEXT
	fill(words, split(collected, words, " "), TEXT)
	new_line()
}

# It goes before the text below it, or before a list.
function heading(name) {
	return substr(name, 1, 1) tolower(substr(name, 2))
}

function show_paragraph(    words) {
	if (after_list) print ""
	after_list = 0
	fill(words, split(collected, words, " "), 0)
	new_line()
}

/^\.\\"/ || /^\.(Bl|Bd|Ed) / { next }
/^\.(Sh|Ss) / {
	next_is("paragraph")
	if ($1 == ".Sh") section = substr($0, 5)
	shown = section ~ (synopsis ? "^COMMANDS$" : "^(SYNOPSIS|COMMANDS|MODES|OPTIONS|EXIT STATUS)$")
	if (!shown || synopsis) next
	after_list = section != "SYNOPSIS"
	if ($0 == ".Sh COMMANDS") print ""
	else if (section != "SYNOPSIS") put(heading(substr($0, 5)) ":")
	next
}
!shown { next }
/^\.Pp/ { next_is(in_list ? "" : "paragraph"); next }
/^\.El/ { next_is("paragraph"); after_list = 1; in_list = 0; next }
/^\.It/ { next_is("form"); in_list = 1 }
collecting != "" { collect() }
/^\.It Xo/ { long = 1 }
/^\.Xc/ { long = 0 }
collecting == "form" && !long { next_is("text") }
END { next_is("") }
