// Gets a URL, or says which Go it was built with.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println(runtime.Version())
		return
	}
	answer, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.Status, string(body))
}
