// Package talk lets a test drive a TURN client: commands come as lines of words, answers and events go as lines of JSON.
//
//	allocate                     {"reply":"allocate","relayed":"192.0.2.1:50000"}
//	allocate-tcp                 the same, for TCP (RFC 6062)
//	permit ADDRESS               {"reply":"permit"}
//	send ADDRESS HEX             {"reply":"send"}
//	dial ADDRESS                 {"reply":"dial","stream":0}
//	accept                       {"reply":"accept","stream":1,"peer":"192.0.2.9:7"}
//	write STREAM HEX             {"reply":"write"}
//	close                        {"reply":"close"}, and the end
//
// Events: {"event":"connected"} first, {"event":"data","from":ADDRESS,"data":HEX} for a datagram,
// {"event":"stream","stream":0,"data":HEX} and {"event":"end","stream":0} for a stream, {"event":"deallocated"} when
// the relayed connection ends, {"event":"ended","error":"EOF"} when the connection to the server does. A reply with "error" is a command that failed.
package talk

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Login is what every version's client is made from.
type Login struct {
	Server, Username, Password, Realm string
}

// Client is what every version's client can do.
type Client interface {
	Listen() error
	Close()
	Allocate() (net.PacketConn, error)
	CreatePermission(addrs ...net.Addr) error
	AllocateTCP() (Streams, error)
}

// Streams is a TCP allocation.
type Streams interface {
	Dial(network, address string) (net.Conn, error)
	Accept() (net.Conn, error)
	Addr() net.Addr
	Close() error
}

// Stack is one version of pion.
type Stack struct {
	// DTLS completes a handshake. Without roots any certificate is taken.
	DTLS func(network string, server *net.UDPAddr, serverName string, roots *x509.CertPool) (net.Conn, error)
	// Datagrams makes a packet connection of a connection that carries STUN.
	Datagrams func(conn net.Conn) net.PacketConn
	// New makes a client on a packet connection.
	New func(login Login, conn net.PacketConn) (Client, error)
}

var errUsage = errors.New("unknown command or missing argument")

type session struct {
	client  Client
	relayed net.PacketConn
	tcp     Streams
	streams []net.Conn

	mu  sync.Mutex
	out *json.Encoder
}

type line map[string]any

func (s *session) say(what line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The test that started us is gone, and so are we.
	if err := s.out.Encode(what); err != nil {
		os.Exit(1)
	}
}

// Run serves the commands on standard input.
func Run(stack Stack) {
	var login Login
	flag.StringVar(&login.Server, "server", "", "address and port")
	flag.StringVar(&login.Username, "user", "", "USERNAME")
	flag.StringVar(&login.Password, "password", "", "password")
	flag.StringVar(&login.Realm, "realm", "", "REALM")
	transport := flag.String("transport", "udp", "udp, tcp, tls or dtls")
	serverName := flag.String("server-name", "", "SNI, and the name to be in the certificate")
	ca := flag.String("ca", "", "PEM file of the authority; without it any certificate is taken")
	flag.Parse()

	s := &session{out: json.NewEncoder(os.Stdout)}
	conn, err := s.connect(stack, *transport, login.Server, *serverName, *ca)
	if err == nil {
		s.client, err = stack.New(login, conn)
	}
	if err == nil {
		err = s.client.Listen()
	}
	if err != nil {
		s.say(line{"event": "failed", "error": err.Error()})
		os.Exit(1)
	}
	s.say(line{"event": "connected"})
	commands := bufio.NewScanner(os.Stdin)
	commands.Buffer(nil, 1<<18)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		if len(words) == 0 {
			continue
		}
		answer, err := s.obey(words)
		if answer == nil {
			answer = line{}
		}
		answer["reply"] = words[0]
		if err != nil {
			answer["error"] = err.Error()
		}
		s.say(answer)
		if words[0] == "close" {
			return
		}
	}
}

// watched tells of the end of a connection to the server.
type watched struct {
	net.Conn
	s *session
}

func (w watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.s.say(line{"event": "ended", "error": err.Error()})
	}
	return n, err
}

func (s *session) connect(stack Stack, transport, server, serverName, ca string) (net.PacketConn, error) {
	roots, err := authority(ca)
	if err != nil {
		return nil, err
	}
	address, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		return nil, err
	}
	// v5 asks for a relayed address of its socket's family, and takes [::] for IPv6.
	network := "udp6"
	if address.IP.To4() != nil {
		network = "udp4"
	}
	switch transport {
	case "udp":
		return net.ListenPacket(network, ":0")
	case "tcp":
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return nil, err
		}
		return stack.Datagrams(watched{conn, s}), nil
	case "tls":
		// Tests talk to servers that made their own certificate.
		config := &tls.Config{ServerName: serverName, RootCAs: roots, InsecureSkipVerify: roots == nil}
		conn, err := tls.Dial("tcp", server, config)
		if err != nil {
			return nil, err
		}
		return stack.Datagrams(watched{conn, s}), nil
	case "dtls":
		conn, err := stack.DTLS(network, address, serverName, roots)
		if err != nil {
			return nil, err
		}
		return stack.Datagrams(watched{conn, s}), nil
	}
	return nil, fmt.Errorf("no transport %q", transport)
}

func authority(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return roots, nil
}

func (s *session) obey(words []string) (line, error) {
	argument := func(index int) string {
		if index < len(words) {
			return words[index]
		}
		return ""
	}
	switch words[0] {
	case "allocate":
		return s.allocate()
	case "allocate-tcp":
		tcp, err := s.client.AllocateTCP()
		if err != nil {
			return nil, err
		}
		s.tcp = tcp
		return line{"relayed": tcp.Addr().String()}, nil
	case "permit":
		peer, err := net.ResolveUDPAddr("udp", argument(1))
		if err != nil {
			return nil, err
		}
		return nil, s.client.CreatePermission(peer)
	case "send":
		return nil, s.send(argument(1), argument(2))
	case "dial":
		if s.tcp == nil {
			return nil, errUsage
		}
		conn, err := s.tcp.Dial("tcp", argument(1))
		if err != nil {
			return nil, err
		}
		return line{"stream": s.follow(conn)}, nil
	case "accept":
		if s.tcp == nil {
			return nil, errUsage
		}
		conn, err := s.tcp.Accept()
		if err != nil {
			return nil, err
		}
		return line{"stream": s.follow(conn), "peer": conn.RemoteAddr().String()}, nil
	case "write":
		return nil, s.write(argument(1), argument(2))
	case "close":
		return nil, s.close()
	}
	return nil, errUsage
}

func (s *session) allocate() (line, error) {
	relayed, err := s.client.Allocate()
	if err != nil {
		return nil, err
	}
	s.relayed = relayed
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := relayed.ReadFrom(buffer)
			if err != nil {
				s.say(line{"event": "deallocated", "error": err.Error()})
				return
			}
			s.say(line{"event": "data", "from": from.String(), "data": hex.EncodeToString(buffer[:n])})
		}
	}()
	return line{"relayed": relayed.LocalAddr().String()}, nil
}

func (s *session) send(to, text string) error {
	peer, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	data, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	if s.relayed == nil {
		return errUsage
	}
	_, err = s.relayed.WriteTo(data, peer)
	return err
}

func (s *session) follow(conn net.Conn) int {
	index := len(s.streams)
	s.streams = append(s.streams, conn)
	go func() {
		buffer := make([]byte, 1<<14)
		for {
			n, err := conn.Read(buffer)
			if n > 0 {
				s.say(line{"event": "stream", "stream": index, "data": hex.EncodeToString(buffer[:n])})
			}
			if err != nil {
				s.say(line{"event": "end", "stream": index, "error": err.Error()})
				return
			}
		}
	}()
	return index
}

func (s *session) write(stream, text string) error {
	index, err := strconv.Atoi(stream)
	if err != nil || index < 0 || index >= len(s.streams) {
		return errUsage
	}
	data, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	_, err = s.streams[index].Write(data)
	return err
}

func (s *session) close() error {
	var err error
	if s.relayed != nil {
		err = s.relayed.Close()
	}
	if s.tcp != nil {
		err = errors.Join(err, s.tcp.Close())
	}
	s.client.Close()
	return err
}
