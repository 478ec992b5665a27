// Command rules checks files of alert rules as promtool does, with Prometheus' own code: one line for
// each metric that a file's expressions name, or the mistakes.
package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	for _, path := range os.Args[1:] {
		metrics, errs := check(path)
		for _, err := range errs {
			fmt.Fprintln(os.Stderr, err)
		}
		if len(errs) > 0 {
			os.Exit(1)
		}
		for _, metric := range metrics {
			fmt.Println(metric)
		}
	}
}

func check(path string) ([]string, []error) {
	promql := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile(path, false, model.UTF8Validation, promql, promslog.NewNopLogger())
	if len(errs) > 0 {
		return nil, errs
	}
	var metrics []string
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			expression, err := promql.ParseExpr(rule.Expr)
			if err != nil {
				return nil, []error{err}
			}
			parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
				if selector, ok := node.(*parser.VectorSelector); ok {
					metrics = append(metrics, selector.Name)
				}
				return nil
			})
		}
	}
	slices.Sort(metrics)
	return slices.Compact(metrics), nil
}
