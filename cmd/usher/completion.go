package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" help:"Shell: bash, zsh or fish."`
}

// Help says how the script is used.
func (*completionCmd) Help() string {
	return `For a shell that runs, and in its configuration for each new one:

  bash   source <(usher completion bash)
  zsh    source <(usher completion zsh)
  fish   usher completion fish | source`
}

func (c *completionCmd) Run(a *app) error {
	switch c.Shell {
	case "fish":
		fishCompletion(a.out, a.kong.Model.Node)
	case "zsh": // it runs the functions of bash
		fmt.Fprint(a.out, "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n")
		bashCompletion(a.out, a.kong.Model.Node)
	case "bash":
		bashCompletion(a.out, a.kong.Model.Node)
	default:
		return wrong("SHELL must be bash, zsh or fish, got %q", c.Shell)
	}
	return nil
}

// visit calls do for each command with the names on the way to it: first usher itself,
// whose path is empty.
func visit(n *kong.Node, path []string, do func(n *kong.Node, path []string)) {
	do(n, path)
	for _, c := range n.Children {
		if !c.Hidden {
			visit(c, append(path[:len(path):len(path)], c.Name), do)
		}
	}
}

// flags returns the flags that a command takes: its own, those of all commands, and those
// of the command that it stands for if no other is named.
func flags(n *kong.Node) (all []*kong.Flag) {
	for p := n; p != nil; p = p.Parent {
		all = append(all, p.Flags...)
	}
	if n.DefaultCmd != nil {
		all = append(all, n.DefaultCmd.Flags...)
	}
	return all
}

// children returns the names of a command's commands.
func children(n *kong.Node) (names []string) {
	for _, c := range n.Children {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// bashCompletion writes a function that finds the command that was typed so far, and
// offers its commands, or its flags for a word that begins with a dash. Where it offers
// nothing, bash offers names of files.
func bashCompletion(out io.Writer, root *kong.Node) {
	var known []string
	var cases strings.Builder
	visit(root, nil, func(n *kong.Node, path []string) {
		name := strings.Join(path, " ")
		if name != "" {
			known = append(known, `"`+name+`"`)
		}
		var long []string
		for _, f := range flags(n) {
			long = append(long, "--"+f.Name)
		}
		fmt.Fprintf(&cases, "\t%q) commands=%q flags=%q ;;\n", name, strings.Join(children(n), " "), strings.Join(long, " "))
	})
	fmt.Fprintf(out, `_usher() {
	local at= next word commands flags i
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		next="${at:+$at }$word"
		case $next in
		%s) at=$next ;;
		esac
	done
	case $at in
%s	esac
	word=${COMP_WORDS[COMP_CWORD]}
	case $word in
	-*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
	*) COMPREPLY=($(compgen -W "$commands" -- "$word")) ;;
	esac
}
complete -o default -F _usher usher
`, strings.Join(known, "|"), cases.String())
}

// fishCompletion writes a line for each command and each flag.
func fishCompletion(out io.Writer, root *kong.Node) {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	for _, f := range root.Flags {
		fmt.Fprintf(out, "complete -c usher -l %s -d %s\n", f.Name, quote(f.Help))
	}
	visit(root, nil, func(n *kong.Node, path []string) {
		here := "__fish_use_subcommand"
		for i, name := range path {
			if i == 0 {
				here = "__fish_seen_subcommand_from " + name
			} else {
				here += "; and __fish_seen_subcommand_from " + name
			}
		}
		offer := here
		if len(path) > 0 && len(n.Children) > 0 {
			offer += "; and not __fish_seen_subcommand_from " + strings.Join(children(n), " ")
		}
		for _, c := range n.Children {
			if !c.Hidden {
				fmt.Fprintf(out, "complete -c usher -f -n %s -a %s -d %s\n", quote(offer), c.Name, quote(c.Help))
			}
		}
		if len(path) == 0 {
			return
		}
		for _, f := range n.Flags {
			fmt.Fprintf(out, "complete -c usher -n %s -l %s -d %s\n", quote(here), f.Name, quote(f.Help))
		}
	})
}
