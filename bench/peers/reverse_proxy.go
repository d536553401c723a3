// The proxy that one writes first in Go: httputil.ReverseProxy, on as many cores as there are.
//
//	reverse_proxy PORT ENGINE_PORT
//
// To be measured beside the gateway, not to be used. bench/peers/install.sh builds it, outside the tree.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	engine, err := url.Parse("http://127.0.0.1:" + os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(engine)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// Two idle connections to a host, the default, would mean a new one for nearly every request.
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 4096
	transport.DisableCompression = true
	proxy.Transport = transport
	proxy.ErrorLog = log.New(os.Stderr, "", 0)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], proxy))
}
