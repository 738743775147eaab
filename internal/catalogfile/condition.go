package catalogfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/usher-sh/usher"
)

// The bounds of conditions. What a condition reads is bounded too, so that no
// property, however it was made, makes a decision slow.
const (
	// MaxWhen is the longest condition in bytes.
	MaxWhen = 1000
	// MaxCost is what one evaluation may cost, in units of CEL's cost model:
	// about a step each, or ten bytes of a text that is walked.
	MaxCost = 10_000
	// MaxText is the longest text in bytes that a condition reads.
	MaxText = 4096
	// MaxItems is how many values a list or map that a condition reads may hold
	// in all, with what is nested in it.
	MaxItems = 1000

	maxNesting  = 16         // of lists and maps that a condition reads
	maxLoops    = 2          // exists, all, map, filter within each other
	maxRegexp   = 500        // instructions of a compiled pattern
	maxNodes    = 4000       // of a condition with its macros expanded
	maxEstimate = 10_000_000 // the most that a condition may cost over lists of usualItems texts of usualText bytes
	usualItems  = 100
	usualText   = 256
	zoneCost    = 200 // of a time zone's look-up, in units of cost
	maxDeep     = 8   // levels of lists and maps for which costs are estimated
)

// Conditions compiles every When of a catalogue, by its text. Each is safe for
// concurrent use. One that reads a key that is not there, a text of more than
// MaxText bytes or more than MaxItems values, costs more than MaxCost, or says
// anything but true or false, is an error, which may quote what it read: it is
// not for logs. Parse accepts what compiles here; the error is Invalid.
func Conditions(c *usher.Catalog) (map[string]usher.Condition, error) {
	all := map[string]usher.Condition{}
	for _, key := range sortedKeys(c.Roles) {
		text := c.Roles[key].When
		if text == "" || all[text] != nil {
			continue
		}
		condition, problems := compile(text)
		if len(problems) > 0 {
			return nil, usher.Errorf(usher.Invalid, "roles.%s.when: %s", key, problems[0])
		}
		all[text] = condition
	}
	return all, nil
}

// when reads a condition.
func (p *parser) when(n *node) string {
	if n.class() == isBool {
		p.bad(n, `must be text: write "%s" in quotes; what always holds needs no when`, clip(n.text))
		return ""
	}
	if n.class() != isText {
		p.bad(n, "must be a condition such as \"resource.properties.owner == subject.id\", %s", n.got())
		return ""
	}
	s := strings.TrimSpace(n.text)
	switch {
	case s == "":
		p.bad(n, "must not be empty: leave when out for what always holds")
		return ""
	case len(s) > MaxWhen:
		p.bad(n, "must be at most %d bytes, this one is %d", MaxWhen, len(s))
		return ""
	case !utf8.ValidString(s):
		p.bad(n, "must be valid UTF-8")
		return ""
	}
	for _, c := range s {
		if unicode.IsControl(c) {
			p.bad(n, "must be on one line, without control characters (U+%04X): fold a long one with >", c)
			return ""
		}
	}
	problems, known := p.whens[s]
	if !known {
		_, problems = compile(s)
		if p.whens == nil {
			p.whens = map[string][]string{}
		}
		p.whens[s] = problems
	}
	for _, problem := range problems {
		p.bad(n, "%s", problem)
	}
	return s
}

// variables are what conditions read, and each one's type. Every dotted name is
// a variable of its own, so that a wrong one is found when the file is read.
var variables = []struct {
	name string
	typ  *cel.Type
}{
	{"subject.type", cel.StringType}, {"subject.id", cel.StringType}, {"subject.properties", properties},
	{"action.name", cel.StringType}, {"action.properties", properties},
	{"resource.type", cel.StringType}, {"resource.id", cel.StringType}, {"resource.properties", properties},
	{"context", properties}, {"now", cel.TimestampType},
}

var properties = cel.MapType(cel.StringType, cel.DynType)

// request is an AccessRequest as CEL reads it: by name, without a copy.
type request usher.AccessRequest

// Parent implements CEL's interface: there is nothing behind a request.
func (r *request) Parent() interpreter.Activation { return nil }

// ResolveName returns the value of a variable.
func (r *request) ResolveName(name string) (any, bool) {
	switch name {
	case "subject.type":
		return r.Subject.Type, true
	case "subject.id":
		return r.Subject.ID, true
	case "subject.properties":
		return r.Subject.Properties, true
	case "action.name":
		return r.Action, true
	case "action.properties":
		return r.ActionProperties, true
	case "resource.type":
		return r.Resource.Type, true
	case "resource.id":
		return r.Resource.ID, true
	case "resource.properties":
		return r.Resource.Properties, true
	case "context":
		return r.Context, true
	case "now":
		return types.Timestamp{Time: r.Now.UTC()}, true
	}
	return nil, false
}

// language is the CEL of conditions: the standard definitions and nothing else.
// It never changes, and takes long enough to make that one does for all.
var language = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.CustomTypeAdapter(bounded{}),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(MaxWhen),
		cel.ParserRecursionLimit(100),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexp),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), literals{}),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.typ))
	}
	return cel.NewEnv(options...)
})

// compile returns a condition, or what is wrong with its text.
func compile(text string) (usher.Condition, []string) {
	env, err := language()
	if err != nil {
		return nil, []string{err.Error()}
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, words(issues)
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, []string{fmt.Sprintf("must be true or false, this one is of type %s", clip(t.String()))}
	}
	if depth := loops(checked.NativeRep().Expr()); depth > maxLoops {
		return nil, []string{fmt.Sprintf("at most %d of all, exists, exists_one, map and filter may be nested, this condition nests %d",
			maxLoops, depth)}
	}
	usual, err := env.EstimateCost(checked, sizes{usualItems, usualText})
	if err != nil {
		return nil, []string{err.Error()}
	}
	if usual.Max > maxEstimate {
		return nil, []string{fmt.Sprintf("costs too much: over lists of %d texts it takes %s steps, at most %d are allowed", usualItems,
			steps(usual.Max), maxEstimate)}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	worst, err := env.EstimateCost(checked, sizes{MaxItems, MaxText})
	if err != nil || worst.Max > MaxCost || grows(checked.NativeRep().Expr()) {
		options = append(options, cel.CostTracking(sizes{}), cel.CostLimit(MaxCost)) // else nothing that it reads can make it cost that much
	}
	program, err := env.Program(checked, options...)
	if err != nil {
		return nil, []string{"cannot be used: " + clip(err.Error())}
	}
	return func(r *usher.AccessRequest) (bool, error) {
		if r == nil {
			return false, errors.New("there is no request")
		}
		out, _, err := program.Eval((*request)(r))
		if err != nil {
			return false, errors.New(shorten(err.Error()))
		}
		is, ok := out.(types.Bool)
		if !ok {
			return false, fmt.Errorf("the condition is of type %s, not true or false", out.Type().TypeName())
		}
		return bool(is), nil
	}, nil
}

func steps(n uint64) string {
	if n > 1<<60 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// words returns at most three of the problems that CEL found.
func words(issues *cel.Issues) (all []string) {
	for _, e := range issues.Errors() {
		message := strings.TrimPrefix(e.Message, "Syntax error: ")
		if strings.HasPrefix(message, "error recovery") {
			continue // a consequence of an error that is already in the list
		}
		switch message {
		case "token recognition error at: '= '":
			message = "a comparison is written =="
		case "undeclared reference to 'subject'", "undeclared reference to 'resource'":
			name := message[len("undeclared reference to '") : len(message)-1]
			message = fmt.Sprintf("%s alone has no value: write %s.id, %s.type or %s.properties.NAME", name, name, name, name)
		}
		if before, _, found := strings.Cut(message, " expecting "); found {
			message = before
		}
		message = shorten(message)
		if column := e.Location.Column(); column >= 0 {
			message = fmt.Sprintf("character %d: %s", column+1, message)
		}
		if all = append(all, message); len(all) == 3 {
			break
		}
	}
	return all
}

// shorten cuts a message that quotes much.
func shorten(message string) string {
	const most = 200
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most], "") + "…"
}

// loops returns how deep comprehensions nest, including those inside ranges.
func loops(e ast.Expr) int {
	deepest := 0
	below := func(children ...ast.Expr) {
		for _, c := range children {
			deepest = max(deepest, loops(c))
		}
	}
	switch e.Kind() {
	case ast.CallKind:
		if call := e.AsCall(); call.IsMemberFunction() {
			below(call.Target())
		}
		below(e.AsCall().Args()...)
	case ast.ListKind:
		below(e.AsList().Elements()...)
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			below(entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
	case ast.SelectKind:
		below(e.AsSelect().Operand())
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		below(c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result())
		// The range is evaluated once, before the loop, so it is not one level deeper.
		deepest++
		below(c.IterRange())
	}
	return deepest
}

// grows reports whether e loops or makes texts and lists longer. CEL's estimate
// misses that if types are known only at run time.
func grows(e ast.Expr) (does bool) {
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		does = does || e.Kind() == ast.ComprehensionKind || e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.Add
	}))
	return does
}

// literals refuses patterns and time zones that are not literals, because their
// cost must be known before the request is, and messages, because conditions have
// no message types.
type literals struct{}

// Name implements CEL's interface.
func (literals) Name() string { return "usher.literals" }

// Validate reports every place where a literal is missing.
func (literals) Validate(_ *cel.Env, _ cel.ValidatorConfig, a *ast.AST, issues *cel.Issues) {
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.StructKind:
			issues.ReportErrorAtID(e.ID(), "a condition cannot create messages, only lists and maps")
		case ast.CallKind:
			call := e.AsCall()
			args := call.Args()
			switch name := call.FunctionName(); {
			case len(args) == 0:
			case name == "matches":
				if args[len(args)-1].Kind() != ast.LiteralKind {
					issues.ReportErrorAtID(e.ID(), "the pattern of matches must be a literal text, such as \"^eu-\"")
				}
			case strings.HasPrefix(name, "get"):
				zone := args[len(args)-1]
				if zone.Kind() != ast.LiteralKind {
					issues.ReportErrorAtID(e.ID(), "the time zone of %s must be a literal text, such as \"Europe/Berlin\"", name)
				} else if s, ok := zone.AsLiteral().Value().(string); ok && !knownZone(s) {
					issues.ReportErrorAtID(e.ID(), "there is no time zone %s: write one such as \"Europe/Berlin\" or \"+02:00\"", quote(s))
				}
			}
		}
	}))
}

func knownZone(s string) bool {
	if strings.Contains(s, ":") {
		_, err := time.Parse("-07:00", "+"+strings.TrimLeft(s, "+-"))
		return err == nil
	}
	_, err := time.LoadLocation(s)
	return err == nil && s != "Local"
}

// sizes bounds the values that a condition reads and knows the cost of looking up
// a time zone. For everything else CEL's own figures hold.
type sizes struct{ items, text uint64 }

// EstimateSize returns how large a value can be. A property may be a list or a
// text: the larger of the two counts.
func (e sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	deep := 0
	for _, step := range n.Path() {
		if strings.HasPrefix(step, "@") {
			deep++
		}
	}
	if deep > maxDeep {
		return nil
	}
	size := max(e.items, e.text)
	if t := n.Type(); t != nil {
		switch t.Kind() {
		case types.StringKind, types.BytesKind:
			size = e.text
		case types.ListKind, types.MapKind:
			size = e.items
		}
	}
	return &cost.SizeEstimate{Max: size}
}

// EstimateCallCost returns what a call can cost if CEL does not know it, else nil.
func (sizes) EstimateCallCost(_, overload string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if !strings.HasSuffix(overload, "_with_tz") {
		return nil
	}
	return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(zoneCost)}
}

// CallCost returns what a call did cost if CEL does not know it, else nil. CEL
// counts one step for a + whose types are known only at run time, however long
// the result: here the length counts.
func (sizes) CallCost(function, overload string, _ []ref.Val, result ref.Val) *uint64 {
	n := uint64(1)
	switch {
	case strings.HasSuffix(overload, "_with_tz"):
		n = zoneCost
	case function == operators.Add:
		if s, ok := result.(types.String); ok {
			n += uint64(len(s)) / 10
		} else if b, ok := result.(types.Bytes); ok {
			n += uint64(len(b)) / 10
		}
	default:
		return nil
	}
	return &n
}

// bounded converts JSON values to CEL values; a value that is too large becomes
// an error.
type bounded struct{}

// NativeToValue implements CEL's interface.
func (bounded) NativeToValue(v any) ref.Val {
	switch t := v.(type) {
	case string:
		if len(t) > MaxText {
			return types.NewErr("a text of %d bytes: conditions read at most %d", len(t), MaxText)
		}
		return types.String(t)
	case json.Number:
		if len(t) > MaxText {
			return types.NewErr("a number of %d bytes: conditions read at most %d", len(t), MaxText)
		}
	case map[string]any:
		if err := measure(t); err != nil {
			return err
		}
	case []any:
		if err := measure(t); err != nil {
			return err
		}
	case []string: // JSON makes no maps or lists of other types
		if len(t) > MaxItems {
			return tooMany()
		}
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

func tooMany() ref.Val {
	return types.NewErr("more than %d values: conditions read no more than that", MaxItems)
}

// measure returns an error if a list or map is too large, else nil.
func measure(v any) ref.Val {
	left := MaxItems + 1 // with v itself
	return walk(v, &left, 0)
}

func walk(v any, left *int, depth int) ref.Val {
	if *left--; *left < 0 {
		return tooMany()
	}
	if depth > maxNesting {
		return types.NewErr("nested deeper than %d levels: conditions read no deeper", maxNesting)
	}
	switch t := v.(type) {
	case string:
		if len(t) > MaxText {
			return types.NewErr("a text of %d bytes: conditions read at most %d", len(t), MaxText)
		}
	case json.Number:
		if len(t) > MaxText {
			return types.NewErr("a number of %d bytes: conditions read at most %d", len(t), MaxText)
		}
	case []any:
		if len(t) > *left {
			return tooMany()
		}
		for _, item := range t {
			if err := walk(item, left, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if len(t) > *left {
			return tooMany()
		}
		for key, item := range t {
			if len(key) > MaxText {
				return types.NewErr("a key of %d bytes: conditions read at most %d", len(key), MaxText)
			}
			if err := walk(item, left, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
