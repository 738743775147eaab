module github.com/usher-sh/usher/internal/oracles

go 1.26.0

replace github.com/usher-sh/usher => ../..

require github.com/open-feature/go-sdk v1.20.0

require go.uber.org/mock v0.6.0 // indirect
