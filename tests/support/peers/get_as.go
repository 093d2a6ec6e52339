// Gets the page of a host at a port of this machine, and trusts the certificates of a file alone.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	roots := x509.NewCertPool()
	pem, _ := os.ReadFile(os.Args[1])
	roots.AppendCertsFromPEM(pem)
	trusted := &tls.Config{RootCAs: roots, ServerName: os.Args[2]}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: trusted}}
	answer, err := client.Get("https://127.0.0.1:" + os.Args[3] + "/")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(string(body))
}
