# git smart HTTP over git-http-backend: githttp.py PORT ROOT; the password is in $GIT_HTTP_PASSWORD, where nobody else reads it.
# Notes each request in ROOT/requests. While ROOT/break-pushes holds a number above 0, it counts down and the push breaks off.
import base64, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
PORT, ROOT, PASS = int(sys.argv[1]), os.path.abspath(sys.argv[2]), os.environ.get('GIT_HTTP_PASSWORD')
class H(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def body(self):
        if self.headers.get('Transfer-Encoding', '').lower() == 'chunked':
            b = b''
            while n := int(self.rfile.readline().split(b';')[0], 16):
                b += self.rfile.read(n); self.rfile.readline()
            self.rfile.readline(); return b
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    def breaks_off(self, path):
        if not (self.command == 'POST' and path.endswith('/git-receive-pack')): return False
        try: left = int(open(ROOT + '/break-pushes').read())
        except FileNotFoundError: return False
        if left: open(ROOT + '/break-pushes', 'w').write(str(left - 1))
        return left > 0
    def run(self):
        path, _, query = self.path.partition('?')
        with open(ROOT + '/requests', 'a') as requests: requests.write(f'{self.command} {self.path}\n')
        if self.breaks_off(path):
            # With the first bytes of an answer: where there are none, curl by itself sends the request again.
            self.rfile.read(16); self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0'); self.close_connection = True; return
        body = self.body()
        auth = self.headers.get('Authorization', '')
        user, pw = (base64.b64decode(auth[6:]).decode().split(':', 1) if auth.startswith('Basic ') else ('', None))
        if PASS and pw != PASS:
            self.send_response(401); self.send_header('WWW-Authenticate', 'Basic realm="git"'); self.send_header('Content-Length', '0'); return self.end_headers()
        env = dict(PATH=os.environ['PATH'], GIT_PROJECT_ROOT=ROOT, GIT_HTTP_EXPORT_ALL='1', PATH_INFO=path, QUERY_STRING=query, REQUEST_METHOD=self.command,
                   CONTENT_TYPE=self.headers.get('Content-Type', ''), CONTENT_LENGTH=str(len(body)), REMOTE_USER=user or 'anon', REMOTE_ADDR='127.0.0.1',
                   HTTP_CONTENT_ENCODING=self.headers.get('Content-Encoding', ''), GIT_PROTOCOL=self.headers.get('Git-Protocol', ''), HOME=ROOT)
        out = subprocess.run(['git', 'http-backend'], input=body, env=env, stdout=subprocess.PIPE).stdout
        head, _, rest = out.partition(b'\r\n\r\n')
        h = [l.split(': ', 1) for l in head.decode().split('\r\n')]
        st = int(next((v for k, v in h if k == 'Status'), '200').split()[0])
        self.send_response(st)
        for k, v in h:
            if k != 'Status': self.send_header(k, v)
        self.send_header('Content-Length', str(len(rest))); self.end_headers(); self.wfile.write(rest)
    do_GET = do_POST = run
    def log_message(self, *a): pass
ThreadingHTTPServer(('127.0.0.1', PORT), H).serve_forever()
