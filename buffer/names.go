package buffer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
)

// namesName is a text file in the queue's directory that says once more which identity has which
// number: in a generation that stands in one page or two, and if these are lost nobody would know
// whose all the whole records are. It is read only then.
const namesName = "identities"

// saveNames writes the file anew: a line "number name checksum" for each identity. The checksum is also
// over the queue id: the numbers of another queue mean others.
func saveNames(dir, id string, names map[uint32]string) error {
	var b bytes.Buffer
	for number, name := range names {
		line := fmt.Sprintf("%d %q", number, name)
		fmt.Fprintf(&b, "%s %08x\n", line, nameSum(id, line))
	}
	path := filepath.Join(dir, namesName)
	file, err := os.Create(path + tmpSuffix)
	if err != nil {
		return err
	}
	_, err = file.Write(b.Bytes())
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return publish(path+tmpSuffix, path)
}

func nameSum(id, line string) uint32 { return crc32.Checksum([]byte(id+" "+line), castagnoli()) }

// readNames reads the lines that are whole and of the queue id.
func readNames(dir, id string) map[uint32]string {
	names := map[uint32]string{}
	data, err := os.ReadFile(filepath.Join(dir, namesName))
	if err != nil {
		return names
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 {
			continue
		}
		line, sum := lines.Text()[:at], lines.Text()[at+1:]
		if fmt.Sprintf("%08x", nameSum(id, line)) != sum {
			continue
		}
		var number uint32
		var name string
		if _, err := fmt.Sscanf(line, "%d %q", &number, &name); err == nil {
			names[number] = name
		}
	}
	return names
}

// keepNames saves the names if there are new ones. That it cannot be done now is no error.
func (q *Queue) keepNames() {
	c := &q.committer
	names := map[uint32]string{}
	for number, l := range c.byNumber {
		if l.named {
			names[number] = string(l.id)
		}
	}
	if len(names) > c.namesKept && saveNames(q.cfg.Dir, q.id, names) == nil {
		c.namesKept = len(names)
	}
}
