# git smart HTTP over git-http-backend: githttp.py PORT ROOT [PASSWORD]
import base64, gzip, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
PORT, ROOT, PASS = int(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
class H(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def body(self):
        if self.headers.get('Transfer-Encoding', '').lower() == 'chunked':
            b = b''
            while n := int(self.rfile.readline().split(b';')[0], 16):
                b += self.rfile.read(n); self.rfile.readline()
            self.rfile.readline(); return b
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    def run(self):
        body = self.body(); path, _, query = self.path.partition('?')
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
