package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/delivery/smtpc/smtptest"
)

func demoCommand() command {
	return command{
		name: "demo", args: "[--keep]", short: "See the whole story on this machine, in under a minute",
		long: `Starts a node and a pretend primary on loopback, sends mail, stops the primary,
lets users read and answer, starts the primary again, and shows that everything
arrived. Every step that it tells is verified; it exits 0 only if all held.
Everything happens in a temporary directory, which is removed at the end unless
--keep is given or a step failed.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.BoolVar(&e.keep, "keep", false, "keep the directory, to look around in it")
		},
		run: alone(runDemo),
	}
}

// demoLimit bounds the whole demo, also on a machine that is busy.
const demoLimit = 3 * time.Minute

// demo is the stage: a node, the servers it meets, and the mail of the story.
type demo struct {
	*teller
	dir     string
	began   time.Time
	node    *demoNode
	primary *smtptest.Server // the organisation's own mail server
	world   *smtptest.Server // the smart host to everybody else

	inbound []*letter // all mail that the primary is to get, in the order of sending
	before  int       // how many of them came before the outage
	answer  *letter
	outage  time.Time // when the primary was stopped
	figures []figure
	alice   *imapTalk // logged in during the outage
	bob     *imapTalk
}

// figure is a measurement for the end of the story.
type figure struct{ what, value string }

func (d *demo) note(what string, value time.Duration) {
	d.figures = append(d.figures, figure{what, human(value)})
}

// scenes are the steps of the story, in order.
func (d *demo) scenes() []scene {
	return []scene{
		{"A mail server, and Holdfast in front of it", d.setUp},
		{"An ordinary day: mail passes through", d.ordinaryDay},
		{"The mail server dies", d.outageBegins},
		{"Senders notice nothing", d.mailDuringOutage},
		{"Alice reads her mail", d.aliceReads},
		{"Alice answers, and Bob sees it at once", d.aliceAnswers},
		{"Now the machine of the node dies as well", d.nodeDies},
		{"The mail server is back", d.replay},
		{"Somebody deleted a message", d.redelivery},
		{"Nothing lost, nothing readable", d.proof},
	}
}

// scene is one step. It returns an error as soon as something is not as told.
type scene struct {
	title string
	play  func(context.Context) error
}

func runDemo(ctx context.Context, e *env) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return err
	}
	d := &demo{teller: newTeller(e.out), dir: dir, began: time.Now()}
	if err = d.open(); err == nil {
		err = d.tell(ctx)
	}
	d.close()
	if ctx.Err() != nil {
		return errors.Join(errors.New("demo: interrupted"), os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("demo: %w; what the node said is in %s", err, filepath.Join(dir, "node.log"))
	}
	return d.leave(e.keep)
}

// open sets the stage.
func (d *demo) open() (err error) {
	d.primary = smtptest.New(smtptest.Options{Hostname: "mail.acme.test"})
	d.world = smtptest.New(smtptest.Options{Hostname: "relay.world.test"})
	d.node, err = newDemoNode(d.dir)
	return err
}

// tell plays the scenes.
func (d *demo) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	d.write(d.paint(bold, "Holdfast: an outage, from beginning to end") + "\n")
	d.say(`Holdfast is a mail archive and continuity store. It stands in front of an organisation's mail server,
the primary: it takes all mail first, seals it into storage before the sender hears 250, and passes it on.
When the primary is down, people read and write their mail here; when it is back, it gets all that it missed.`)
	d.say(`The node, the storage and the mail below are real, and run on this machine alone; the primary and the
outside world are played. What is marked "checked" has just been verified.`)
	for _, s := range d.scenes() {
		d.step(s.title)
		if err := s.play(ctx); err != nil {
			return fmt.Errorf("step %d, %q: %w", d.steps, s.title, err)
		}
		if d.err != nil {
			return fmt.Errorf("tell the story: %w", d.err)
		}
	}
	return nil
}

// close ends everything that runs.
func (d *demo) close() {
	d.alice.close()
	d.bob.close()
	if d.node != nil {
		d.node.close()
	}
	d.primary.Stop()
	d.world.Stop()
}

// keep leaves a directory in which the node can be started again, at the
// addresses that it had last.
func (d *demo) keep() error {
	addr := d.node.log.addr
	if err := d.node.configure(addr("smtp"), addr("submission"), addr("imap"), addr("web")); err != nil {
		return err
	}
	d.say("Everything is still in %s. To look around, start the node again there:", d.dir)
	d.write("\n    cd " + d.dir + "\n    holdfast serve -c holdfast.toml\n")
	d.say("Its primary is gone, so it soon lets people in: a mail program reaches Alice's mail at %s (IMAP, %s, %q), and the state of the node is at http://%s/ or told by holdfast status -c holdfast.toml.",
		addr("imap"), aliceAddr, alicePassword, addr("web"))
	return d.err
}

// leave sums up.
func (d *demo) leave(keep bool) error {
	d.write("\n" + d.paint(bold, "Measured here") + "\n\n")
	width := 0
	for _, f := range d.figures {
		width = max(width, len(f.what))
	}
	for _, f := range d.figures {
		d.write(fmt.Sprintf("  %s%s  %s\n", f.what, strings.Repeat(" ", width-len(f.what)), f.value))
	}
	d.say("All %d steps were verified, in %s.", d.steps, human(time.Since(d.began)))
	if keep {
		return d.keep()
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	d.say("Nothing of it is left on this machine. With --keep the directory stays. What to do next: write a holdfast.toml, run holdfast serve, and let your MX point to it; holdfast --help lists the commands.")
	return d.err
}
