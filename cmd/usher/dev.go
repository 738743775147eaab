package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
)

type devCmd struct {
	Listen   string `help:"Address to listen on (default ${default})." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	PortFile string `help:"File to write the listen address to." type:"path" placeholder:"FILE"`
}

func (c *devCmd) Run(a *app) error {
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	dir, err := os.MkdirTemp("", "usher-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := open(a, "", server.Config{DB: filepath.Join(dir, "dev.db"), PublicURL: "http://" + listener.Addr().String(), Log: log})
	if err != nil {
		return err
	}
	key, _, err := s.Auth.Create(a, actorCLI, demoEnv, "dev", auth.RoleAdmin, time.Time{})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return serve(a, s, listener, c.PortFile, func(address string) error {
		if a.cli.JSON {
			return a.printJSON(map[string]any{"url": "http://" + address, "key": key})
		}
		fmt.Fprintln(a.err, "An empty sandbox on a temporary database; Ctrl-C stops it and removes everything. In another terminal:")
		_, err := fmt.Fprintf(a.out, "export USHER_URL=http://%s\nexport USHER_KEY=%s\n", address, key)
		return err
	})
}
