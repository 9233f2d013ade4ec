package versitygwtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

// minioVariable names the program of a MinIO server. Where it is set that is run
// instead of versitygw, in every test: make minio builds it and does so.
//
// MinIO keeps versions in every bucket with Object Lock, and only in these unless
// it is told otherwise.
const minioVariable = "HOLDFAST_TEST_MINIO"

// pick returns the program to run, and whether it is MinIO.
func pick(ctx context.Context) (program string, minio bool, err error) {
	if program = os.Getenv(minioVariable); program != "" {
		return program, true, nil
	}
	program, err = Build(ctx)
	return program, false, err
}

// command is the program with what it needs to be told.
func (s *Server) command() *exec.Cmd {
	if s.minio {
		cmd := exec.Command(s.program, "server", "--quiet", "--address", s.addr, "--certs-dir", filepath.Join(s.dir, ".certs"), s.dir)
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.access, "MINIO_ROOT_PASSWORD="+s.secret,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_REGION=us-east-1")
		return cmd
	}
	args := []string{"--port", s.addr, "--region", "us-east-1", "--quiet", "--keep-alive", "posix"}
	if s.versions != "" {
		args = append(args, "--versioning-dir", s.versions)
	}
	cmd := exec.Command(s.program, append(args, s.dir)...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.access, "ROOT_SECRET_KEY="+s.secret)
	return cmd
}

// ready is what answers once the server does its work.
func (s *Server) ready() (url string, status int) {
	if s.minio {
		return s.Endpoint() + "/minio/health/cluster", 200
	}
	return s.Endpoint(), 0 // any
}

// Versioned reports whether buckets made with Object Lock keep versions.
func (s *Server) Versioned() bool { return s.minio || s.versions != "" }
